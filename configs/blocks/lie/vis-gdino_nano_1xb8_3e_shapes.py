# The plain nano detector: trained on the shapes world, tested on warped copies of it.
_base_ = [
    '../../_base_/models/dino_r1_nano.py',
    '../../_base_/datasets/shapes_warped.py',
    '../../_base_/schedules/nano_3e.py',
    '../../_base_/default_runtime.py',
]
