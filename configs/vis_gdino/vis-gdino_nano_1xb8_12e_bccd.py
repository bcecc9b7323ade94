# The supervised baseline on photographs: load_from is the checkpoint of dino-r1_nano_1xb8_6e_shapes.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/nano_12e.py',
    '../_base_/default_runtime.py',
]

load_from = {{_base_.shapes_checkpoint}}
