# Six epochs with one learning-rate cycle.
max_epochs = 6
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
# Every image is prompted with the mean of 16 exemplars of each class, drawn from prompt_dataset. For another protocol:
# --cfg-options test_cfg.prompts.type=VisualInteractive
prompts = dict(type='VisualGeneric')
val_cfg = dict(type='PromptedValLoop', prompts=prompts)
test_cfg = dict(type='PromptedTestLoop', prompts=prompts)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-3, weight_decay=1e-4, fused=True),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(
        type='OneCycleLR',
        eta_max=3e-3,
        total_steps=max_epochs,
        pct_start=0.1,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
