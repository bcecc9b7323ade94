# Twelve epochs with one learning-rate cycle: for small data sets.
_base_ = './nano_6e.py'

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = [dict(_base_.param_scheduler[0], total_steps=max_epochs)]
