# A branch with several queries per object, normalised per object. Controls: weights, or no loss_one_to_many.
_base_ = [
    '../../_base_/models/dino_r1_nano.py',
    '../../_base_/models/lite0_backbone.py',
    '../../_base_/datasets/icons.py',
    '../../_base_/schedules/nano_3e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=_base_.lite0_pixels,
    backbone=dict(_delete_=True, **_base_.lite0_backbone),
    neck=dict(in_channels=_base_.lite0_channels),
    decoder=dict(layer_order='cross_first'),
    bbox_head=dict(type='GroupRelativeHead', loss_one_to_many=dict(type='OneToManyLoss')),
    test_cfg=dict(chunked_size=80),
)
custom_hooks = [dict(type='LossBalanceHook', shares=dict(loss_one_to_many=0.3), warmup=500)]
optim_wrapper = dict(paramwise_cfg=_base_.lite0_rates)
