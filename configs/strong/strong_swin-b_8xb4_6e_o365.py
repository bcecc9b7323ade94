# The strong recipe on Objects365, with Swin-B: the settings of strong_prompts.py on
# vis_gdino/vis-gdino_swin-b_8xb4_6e_o365.py.
_base_ = [
    '../_base_/models/dino_r1_swin-b.py',
    '../_base_/models/strong_prompts.py',
    '../_base_/datasets/objects365_detection.py',
    '../_base_/schedules/o365_6e.py',
    '../_base_/default_runtime.py',
]

model = dict(prompts=_base_.strong_prompts, test_cfg=_base_.strong_scores)
train_dataloader = dict(batch_sampler=dict(_delete_=True, **_base_.strong_batches))
