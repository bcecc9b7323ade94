# GRQO on MMDetection's plain DINO, which the paper does not evaluate: one epoch of supervised training, then GRQO.
# Schedule and batch size are those of mmdet's dino-4scale_r50_8xb2-12e_coco.
_base_ = [
    '../_base_/models/dino_r50.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_12e.py',
    '../_base_/grqo_runtime.py',
]

model = dict(bbox_head=dict(loss_grqo={{_base_.loss_grqo}}))
train_dataloader = dict(batch_size=2)

# The detector takes no prompts: MMEngine's own loops evaluate it.
val_cfg = dict(_delete_=True, type='ValLoop')
test_cfg = dict(_delete_=True, type='TestLoop')

optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(_delete_=True, custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
param_scheduler = [
    dict(type='MultiStepLR', by_epoch=True, begin=0, end={{_base_.max_epochs}}, milestones=[11], gamma=0.1),
]
# 8 devices with 2 images each.
auto_scale_lr = dict(base_batch_size=16)
