# Tests a checkpoint of vis-gdino_nano_1xb16_3e_icons on concepts that training never shows.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/datasets/icons_novel.py',
    '../_base_/schedules/nano_3e.py',
    '../_base_/default_runtime.py',
]

# Hundreds of classes do not fit one pass.
model = dict(test_cfg=dict(chunked_size=80))
