# The supervised baseline on the icon world with the longest of three schedules.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/models/lite0_backbone.py',
    '../_base_/datasets/icons.py',
    '../_base_/schedules/nano_8e.py',
    '../_base_/default_runtime.py',
]

# Hundreds of classes do not fit one pass.
model = dict(
    data_preprocessor=_base_.lite0_pixels,
    backbone=dict(_delete_=True, **_base_.lite0_backbone),
    neck=dict(in_channels=_base_.lite0_channels),
    test_cfg=dict(chunked_size=80),
)
optim_wrapper = dict(paramwise_cfg=_base_.lite0_rates)
