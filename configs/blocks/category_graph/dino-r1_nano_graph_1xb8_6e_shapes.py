# One epoch of supervised fine-tuning, then GRQO; prompts refined along the category graph.
_base_ = [
    '../../_base_/models/dino_r1_nano.py',
    '../_base_/models/category_graph_shapes.py',
    '../../_base_/datasets/shapes.py',
    '../../_base_/schedules/nano_6e.py',
    '../../_base_/default_runtime.py',
]

model = dict(prompt_refiner={{_base_.prompt_refiner}})
default_hooks = dict(
    # Small files, all kept, as in the baseline.
    checkpoint=dict(max_keep_ckpts=-1),
    prompts=dict(type='PromptProtocolHook', prompt_dataset={{_base_.prompt_dataset}}),
    grqo=dict(type='ReferenceModelHook', objective='contrast', alpha=0.01, beta=0.04, mute=1 / 3),
)
