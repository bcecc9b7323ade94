title = 'LayerNorm removal from a GPT-2 of 0.2 M parameters, English text by bytes'
_removal = 'configs/blocks/norm_conversion/gpt2_layernorm-removal_topics.py'
arms = {
    'LayerNorm kept': dict(config='configs/blocks/norm_conversion/gpt2_topics.py'),
    'removed, one norm every 12 steps': dict(config=_removal),
    'removed, all at step 600': dict(config=_removal, options=['model_converters.0.gap=0']),
    'removed one by one, no auxiliary loss': dict(config=_removal, options=['model_converters.0.aux_weight=0.0']),
}
seeds = [0, 1, 2]
metrics = {'text/cross_entropy': 'cross-entropy, nats per byte'}
note = """
1,200 steps each, the last 600 with the norms on their way out. Published at full scale, arXiv 2507.02559: GPT-2 Small,
cross-entropy on OpenWebText 3.0126 after fine-tuning with LayerNorm and 3.0797 without; Medium 2.7390 and 2.7642.
"""
