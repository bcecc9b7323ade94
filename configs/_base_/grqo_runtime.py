# default_runtime with GRQO as published; a recipe says after how many epochs of supervised fine-tuning it begins.
_base_ = './default_runtime.py'

default_hooks = dict(
    grqo=dict(
        type='ReferenceModelHook',
        objective='contrast',
        alpha=0.01,
        beta=0.04,
        mute=1 / 3,
        dtype='bfloat16',  # of the reference's forward pass alone; None: the precision of the training
    ),
)
