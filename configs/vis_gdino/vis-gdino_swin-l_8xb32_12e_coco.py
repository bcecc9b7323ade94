# VIS-GDINO with Swin-L, fine-tuned on COCO: supervised training only, the baseline of DINO-R1.
_base_ = [
    '../_base_/models/dino_r1_swin-l.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_12e.py',
    '../_base_/default_runtime.py',
]

# The public weights of MM-Grounding-DINO-L, downloaded when a training starts. They lack only the prompt encoder.
# To start from a checkpoint of vis-gdino_swin-l_8xb4_6e_o365: --cfg-options load_from=PATH
load_from = {{_base_.mm_grounding_dino}}
