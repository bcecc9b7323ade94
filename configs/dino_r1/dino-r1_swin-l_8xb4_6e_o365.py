# DINO-R1 with Swin-L on Objects365: one epoch of supervised fine-tuning, then five of GRQO.
_base_ = [
    '../_base_/models/dino_r1_swin-l.py',
    '../_base_/datasets/objects365_detection.py',
    '../_base_/schedules/o365_6e.py',
    '../_base_/grqo_runtime.py',
]

default_hooks = dict(
    prompts=dict(type='PromptProtocolHook', prompt_dataset={{_base_.prompt_dataset}}),
    grqo=dict(warmup=1),
)
