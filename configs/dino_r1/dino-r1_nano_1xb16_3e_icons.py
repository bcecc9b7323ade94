# One epoch of supervised fine-tuning on the icon world, then GRQO.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/datasets/icons.py',
    '../_base_/schedules/nano_3e.py',
    '../_base_/grqo_runtime.py',
]

# More than a thousand classes do not fit one pass.
model = dict(bbox_head=dict(loss_grqo={{_base_.loss_grqo}}), test_cfg=dict(chunked_size=80))
