# default_runtime with GRQO as published. A recipe adds loss_grqo to its head, and sets the number of epochs of
# supervised fine-tuning before GRQO.
_base_ = './default_runtime.py'

loss_grqo = dict(type='GRQOLoss', objective='contrast', alpha=0.01, beta=0.04, mute=1 / 3)
default_hooks = dict(reference=dict(type='ReferenceModelHook', warmup=1, refresh=1))
