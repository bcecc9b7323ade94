# Fine-tunes the released detector on one to ten annotated images, in 80 steps:
# dinor1 train lite/few-shot --data FOLDER. It is evaluated with exemplars from the training images.
_base_ = [
    '../_base_/models/dino_r1_lite.py',
    '../_base_/datasets/folder.py',
    '../_base_/schedules/lite_5e.py',
    '../_base_/default_runtime.py',
]

load_from = 'dinor1://lite'
model = dict(
    # The backbone comes with the released weights.
    backbone=dict(pretrained=False),
    # Exemplars come from the image itself or from others, and an image is often offered only some of the prompts.
    prompts=dict(prompt_sampling='per_image', prompt_dropout=0.5),
)
max_iters = 80
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=4e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=10),
    dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=1e-6, by_epoch=False),
]
train_dataloader = dict(batch_size=4, num_workers=1, sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True))
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(by_epoch=False, interval=max_iters, save_last=True, max_keep_ckpts=1)
)
log_processor = dict(by_epoch=False)
