# The supervised baseline with its prompts refined along the category graph.
_base_ = [
    '../../_base_/models/dino_r1_nano.py',
    '../_base_/models/category_graph_shapes.py',
    '../../_base_/datasets/shapes.py',
    '../../_base_/schedules/nano_6e.py',
    '../../_base_/default_runtime.py',
]

model = dict(prompts=dict(refiner={{_base_.prompt_refiner}}))
default_hooks = dict(
    # Keep all checkpoints, which are small: GRQO starts from that of an early epoch.
    checkpoint=dict(max_keep_ckpts=-1),
)
