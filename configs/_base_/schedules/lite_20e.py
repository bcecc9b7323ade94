# Twenty epochs; otherwise as lite_5e.
_base_ = './lite_5e.py'

max_epochs = 20
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=1e-6, by_epoch=True, convert_to_iter_based=True),
]
