# DINO-R1 with Swin-B on Objects365: one epoch of supervised fine-tuning, then five of GRQO.
_base_ = [
    '../_base_/models/dino_r1_swin-b.py',
    '../_base_/datasets/objects365_detection.py',
    '../_base_/schedules/o365_6e.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(
    prompts=dict(type='PromptProtocolHook', prompt_dataset={{_base_.prompt_dataset}}),
    grqo=dict(
        type='ReferenceModelHook',
        objective='contrast',
        alpha=0.01,
        beta=0.04,
        mute=1 / 3,
        warmup=1,
        dtype='bfloat16',  # of the reference's forward pass alone; None: the precision of the training
    ),
)
