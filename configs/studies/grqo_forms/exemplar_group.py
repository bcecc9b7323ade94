# Four exemplars per class score the queries, weak ones with a larger weight. Controls: weights, or column_weight=0.
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
    bbox_head=dict(type='GroupRelativeHead', loss_exemplar_group=dict(type='ExemplarGroupLoss')),
    test_cfg=dict(chunked_size=80),
)
custom_hooks = [dict(type='LossBalanceHook', shares=dict(loss_exemplar_group=0.3), warmup=500)]
optim_wrapper = dict(paramwise_cfg=_base_.lite0_rates)
