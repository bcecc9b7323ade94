# Tests any nano checkpoint on the novel categories, which never occur in training, with prompts from a separate split.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/datasets/shapes_novel.py',
    '../_base_/schedules/nano_6e.py',
    '../_base_/default_runtime.py',
]
