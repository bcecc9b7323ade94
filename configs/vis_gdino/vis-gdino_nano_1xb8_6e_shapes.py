# The supervised baseline, with visual prompts and without GRQO.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/nano_6e.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(
    # Keep all checkpoints, which are small: GRQO starts from that of an early epoch.
    checkpoint=dict(max_keep_ckpts=-1),
)
