# The strong recipe on the icon world, with the nano detector: the settings of strong_prompts.py on
# vis_gdino/vis-gdino_nano-lite0_1xb16_3e_icons.py.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/models/lite0_backbone.py',
    '../_base_/models/strong_prompts.py',
    '../_base_/datasets/icons.py',
    '../_base_/schedules/nano_3e.py',
    '../_base_/default_runtime.py',
]

# Hundreds of classes do not fit one pass.
model = dict(
    data_preprocessor=_base_.lite0_pixels,
    backbone=dict(_delete_=True, **_base_.lite0_backbone),
    neck=dict(in_channels=_base_.lite0_channels),
    prompts=_base_.strong_prompts,
    test_cfg=dict(chunked_size=80, **_base_.strong_scores),
)
optim_wrapper = dict(paramwise_cfg=_base_.lite0_rates)
train_dataloader = dict(batch_sampler=dict(_delete_=True, **_base_.strong_batches))
