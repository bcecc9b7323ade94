# Eight epochs with one learning-rate cycle.
_base_ = './nano_6e.py'

max_epochs = 8
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [dict(_base_.param_scheduler[0], total_steps=max_epochs)]
