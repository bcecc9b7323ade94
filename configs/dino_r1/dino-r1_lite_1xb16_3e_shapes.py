# A smoke test of the lite detector on generated data: one epoch of supervised fine-tuning, then GRQO.
_base_ = [
    '../_base_/models/dino_r1_lite.py',
    '../_base_/datasets/shapes_288.py',
    '../_base_/schedules/lite_3e.py',
    '../_base_/grqo_runtime.py',
]

model = dict(bbox_head=dict(loss_grqo={{_base_.loss_grqo}}))
