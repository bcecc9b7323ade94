# The supervised baseline: visual prompts, no GRQO.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/nano_6e.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(
    # Small files, and GRQO starts from the checkpoint of an early epoch: all are kept.
    checkpoint=dict(max_keep_ckpts=-1),
)
