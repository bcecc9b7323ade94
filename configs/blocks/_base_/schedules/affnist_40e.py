# Forty epochs on a small set with one learning-rate cycle, and one evaluation at the end.
_base_ = './mnist_3e.py'

max_epochs = 40
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-2))
param_scheduler = [dict(_base_.param_scheduler[0], eta_max=1e-2, total_steps=max_epochs, pct_start=0.2)]
