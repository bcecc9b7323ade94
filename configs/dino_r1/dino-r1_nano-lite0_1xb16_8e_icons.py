# One epoch of supervised fine-tuning on the icon world, then seven of GRQO.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/models/lite0_backbone.py',
    '../_base_/datasets/icons.py',
    '../_base_/schedules/nano_8e.py',
    '../_base_/grqo_runtime.py',
]

model = dict(
    data_preprocessor=_base_.lite0_pixels,
    backbone=dict(_delete_=True, **_base_.lite0_backbone),
    neck=dict(in_channels=_base_.lite0_channels),
    bbox_head=dict(loss_grqo={{_base_.loss_grqo}}),
    test_cfg=dict(chunked_size=80),
)
optim_wrapper = dict(paramwise_cfg=_base_.lite0_rates)
