# Tests any nano checkpoint on the categories that training never shows, with prompts from a split of their own.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/datasets/shapes_novel.py',
    '../_base_/schedules/nano_6e.py',
    '../_base_/default_runtime.py',
]
