# DINO-R1 with Swin-L, fine-tuned on COCO. GRQO from the start: what it starts from detects already.
_base_ = [
    '../_base_/models/dino_r1_swin-l.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_12e.py',
    '../_base_/grqo_runtime.py',
]

model = dict(bbox_head=dict(loss_grqo={{_base_.loss_grqo}}))
default_hooks = dict(
    reference=dict(warmup=0, dtype='bfloat16'),
)

# Fine-tuning starts from dino-r1_swin-l_8xb4_6e_o365: name its checkpoint with
# --cfg-options load_from=PATH. None are published; without one only the backbone is pretrained, and
# default_hooks.reference.warmup=1 puts an epoch of supervised fine-tuning first.
load_from = None
