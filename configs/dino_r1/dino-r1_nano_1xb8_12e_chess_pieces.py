# Fine-tunes the shapes-trained nano on real photographs: load_from is the checkpoint of dino-r1_nano_1xb8_6e_shapes.
# The category 'bishop' has a single box, in train: it is offered as a class and never occurs in val or test.
_base_ = [
    '../_base_/models/dino_r1_nano.py',
    '../_base_/datasets/chess_pieces.py',
    '../_base_/schedules/nano_12e.py',
    '../_base_/default_runtime.py',
]

load_from = 'work_dirs/demo/grqo/epoch_6.pth'
default_hooks = dict(
    prompts=dict(type='PromptProtocolHook', prompt_dataset={{_base_.prompt_dataset}}),
    grqo=dict(type='ReferenceModelHook', objective='contrast', alpha=0.01, beta=0.04, mute=1 / 3, warmup=2),
)
