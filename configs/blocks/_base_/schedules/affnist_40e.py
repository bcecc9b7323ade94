# Forty epochs of a small set with one learning-rate cycle; one evaluation, at the end.
max_epochs = 40
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-2, weight_decay=1e-2),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(
        type='OneCycleLR',
        eta_max=1e-2,
        total_steps=max_epochs,
        pct_start=0.2,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
