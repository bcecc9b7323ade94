# Twelve epochs on COCO. Published for DINO-R1: AdamW with learning rate 4e-4 and weight decay 1e-4, a tenth of the
# learning rate for backbone and language model, gradients clipped at 0.1, 1000 iterations of warm-up, lower rates after
# 8 and 11 epochs, 32 images per device. Not published, and chosen by us: 8 devices, and the first rate of the warm-up.
max_epochs = 12
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
# Every image is prompted with the mean of 16 exemplars of each class, drawn from prompt_dataset. For another protocol:
# --cfg-options test_cfg.prompts.type=VisualInteractive
prompts = dict(type='VisualGeneric')
val_cfg = dict(type='PromptedValLoop', prompts=prompts)
test_cfg = dict(type='PromptedTestLoop', prompts=prompts)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1), language_model=dict(lr_mult=0.1))),
)
warmup = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=1000)
param_scheduler = [
    warmup,
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[8, 11], gamma=0.1),
]
# 8 devices with 32 images each; --auto-scale-lr scales the learning rate relative to this batch size.
auto_scale_lr = dict(base_batch_size=256)
