# One epoch of supervised fine-tuning, then GRQO; prompts refined along the category graph.
_base_ = [
    '../../_base_/models/dino_r1_nano.py',
    '../_base_/models/category_graph_shapes.py',
    '../../_base_/datasets/shapes.py',
    '../../_base_/schedules/nano_6e.py',
    '../../_base_/grqo_runtime.py',
]

model = dict(bbox_head=dict(loss_grqo={{_base_.loss_grqo}}), prompts=dict(refiner={{_base_.prompt_refiner}}))
default_hooks = dict(
    # Keep all checkpoints, which are small, as in the baseline.
    checkpoint=dict(max_keep_ckpts=-1),
)
