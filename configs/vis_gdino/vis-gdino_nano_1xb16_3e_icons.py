# The supervised baseline on the icon world: visual prompts, no GRQO.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/datasets/icons.py',
    '../_base_/schedules/nano_3e.py',
    '../_base_/default_runtime.py',
]

# More than a thousand classes do not fit one pass.
model = dict(test_cfg=dict(chunked_size=80))
