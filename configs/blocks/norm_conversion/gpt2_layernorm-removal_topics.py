# GPT-2 of gpt2_topics.py; from step 600 on, its LayerNorms are replaced by constants, one every 12 steps.
_base_ = './gpt2_topics.py'

model_converters = [
    dict(type='LayerNormRemoval', target='lm', start=600, gap=12, aux_weight=0.1, first_is_special=False),
]
