# DINO-R1 with Swin-T on Objects365: one epoch of supervised fine-tuning, then five of GRQO.
_base_ = [
    '../_base_/models/dino_r1_swin-t.py',
    '../_base_/datasets/objects365_detection.py',
    '../_base_/schedules/o365_6e.py',
    '../_base_/grqo_runtime.py',
]

model = dict(bbox_head=dict(loss_grqo={{_base_.loss_grqo}}))
default_hooks = dict(
    reference=dict(warmup=1, dtype='bfloat16'),
)
