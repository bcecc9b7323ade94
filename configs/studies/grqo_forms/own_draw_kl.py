# The KL of GRQO alone, to a reference with exemplars of its own, and with the total weight of the release.
_base_ = [
    '../../_base_/models/dino_r1_nano.py',
    '../../_base_/models/lite0_backbone.py',
    '../../_base_/datasets/icons.py',
    '../../_base_/schedules/nano_3e.py',
    '../../_base_/grqo_runtime.py',
]

model = dict(
    data_preprocessor=_base_.lite0_pixels,
    backbone=dict(_delete_=True, **_base_.lite0_backbone),
    neck=dict(in_channels=_base_.lite0_channels),
    bbox_head=dict(loss_grqo=dict(type='GRQOLoss', alpha=0.0, beta=0.24, beta_per_layer=False)),
    test_cfg=dict(chunked_size=80),
)
default_hooks = dict(reference=dict(reference_draw='own'))
optim_wrapper = dict(paramwise_cfg=_base_.lite0_rates)
