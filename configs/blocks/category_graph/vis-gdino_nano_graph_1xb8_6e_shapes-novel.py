# Tests a nano checkpoint with the category graph on the novel categories, which never occur in training.
_base_ = [
    '../../_base_/models/dino_r1_nano.py',
    '../_base_/models/category_graph_shapes.py',
    '../../_base_/datasets/shapes_novel.py',
    '../../_base_/schedules/nano_6e.py',
    '../../_base_/default_runtime.py',
]

model = dict(prompts=dict(refiner={{_base_.prompt_refiner}}))
