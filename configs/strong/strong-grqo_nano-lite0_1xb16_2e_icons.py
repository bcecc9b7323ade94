# The strong recipe on the icon world, with the nano detector and GRQO after the first epoch: the settings of
# strong_prompts.py on dino_r1/dino-r1_nano-lite0_1xb16_2e_icons.py.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/models/lite0_backbone.py',
    '../_base_/models/strong_prompts.py',
    '../_base_/datasets/icons.py',
    '../_base_/schedules/nano_2e.py',
    '../_base_/grqo_runtime.py',
]

model = dict(
    data_preprocessor=_base_.lite0_pixels,
    backbone=dict(_delete_=True, **_base_.lite0_backbone),
    neck=dict(in_channels=_base_.lite0_channels),
    bbox_head=dict(loss_grqo={{_base_.loss_grqo}}),
    prompts=_base_.strong_prompts,
    test_cfg=dict(chunked_size=80, **_base_.strong_scores),
)
optim_wrapper = dict(paramwise_cfg=_base_.lite0_rates)
train_dataloader = dict(batch_sampler=dict(_delete_=True, **_base_.strong_batches))
