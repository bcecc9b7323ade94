# VIS-GDINO with Swin-T on Objects365: supervised training only, the baseline of DINO-R1.
_base_ = [
    '../_base_/models/dino_r1_swin-t.py',
    '../_base_/datasets/objects365_detection.py',
    '../_base_/schedules/o365_6e.py',
    '../_base_/default_runtime.py',
]
