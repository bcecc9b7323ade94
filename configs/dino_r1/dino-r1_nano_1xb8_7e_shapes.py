# One epoch of supervised fine-tuning, then GRQO.
_base_ = '../vis_gdino/vis-gdino_nano_1xb8_7e_shapes.py'

default_hooks = dict(grqo=dict(type='ReferenceModelHook', objective='contrast', alpha=0.01, beta=0.04, mute=1 / 3))
