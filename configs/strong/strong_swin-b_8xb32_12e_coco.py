# The strong recipe on COCO, with Swin-B: the settings of strong_prompts.py on
# vis_gdino/vis-gdino_swin-b_8xb32_12e_coco.py.
_base_ = [
    '../_base_/models/dino_r1_swin-b.py',
    '../_base_/models/strong_prompts.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_12e.py',
    '../_base_/default_runtime.py',
]

# With 80 classes, random batches share most of them.
model = dict(prompts=_base_.strong_prompts, test_cfg=_base_.strong_scores)

# The public weights of MM-Grounding-DINO-B, downloaded when a training starts. They lack only the prompt encoder.
# To start from a checkpoint of strong_swin-b_8xb4_6e_o365: --cfg-options load_from=PATH
load_from = {{_base_.mm_grounding_dino}}
