# Ranking of the queries of each prompt. Controls: groups, weights, or type=QualityAwareLoss.
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
    bbox_head=dict(type='GroupRelativeHead', loss_ranking=dict(type='PromptRankingLoss')),
    test_cfg=dict(chunked_size=80),
)
custom_hooks = [dict(type='LossBalanceHook', shares=dict(loss_ranking=0.2), warmup=500)]
optim_wrapper = dict(paramwise_cfg=_base_.lite0_rates)
