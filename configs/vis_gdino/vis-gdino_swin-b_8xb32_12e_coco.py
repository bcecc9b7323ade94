# VIS-GDINO with Swin-B, fine-tuned on COCO: supervised throughout, the baseline of DINO-R1.
_base_ = [
    '../_base_/models/dino_r1_swin-b.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_12e.py',
    '../_base_/default_runtime.py',
]

# Fine-tuning starts from vis-gdino_swin-b_8xb4_6e_o365: name its checkpoint with
# --cfg-options load_from=PATH. None are published; without one only the backbone is pretrained.
load_from = None
