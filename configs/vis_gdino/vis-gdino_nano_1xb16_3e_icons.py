# The supervised baseline on the icon world: visual prompts, no GRQO.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/datasets/icons.py',
    '../_base_/schedules/nano_3e.py',
    '../_base_/default_runtime.py',
]

# Up to 20 objects in an image, and a vocabulary of more than a thousand classes in parts.
model = dict(test_cfg=dict(max_per_img=300, chunked_size=80))
