# Tests a checkpoint of vis-gdino_nano-lite0_1xb16_3e_icons on 300 concepts that neither training nor validation shows.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/models/lite0_backbone.py',
    '../_base_/datasets/icons_novel.py',
    '../_base_/schedules/nano_3e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=_base_.lite0_pixels,
    backbone=dict(_delete_=True, **_base_.lite0_backbone),
    neck=dict(in_channels=_base_.lite0_channels),
    test_cfg=dict(chunked_size=80),
)
