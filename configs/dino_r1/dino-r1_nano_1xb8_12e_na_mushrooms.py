# Fine-tunes nano, trained on shapes, on photographs: load_from is the checkpoint of dino-r1_nano_1xb8_6e_shapes.
# train, val and test share copies of the same photographs: scores are too high, and five test images are very few.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/datasets/na_mushrooms.py',
    '../_base_/schedules/nano_12e.py',
    '../_base_/grqo_runtime.py',
]

model = dict(bbox_head=dict(loss_grqo={{_base_.loss_grqo}}))
load_from = {{_base_.shapes_checkpoint}}
default_hooks = dict(reference=dict(warmup=2))
