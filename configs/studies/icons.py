title = 'The icon world: baselines, and each ingredient of the strong recipe alone, the nano detector'
_sft = 'configs/vis_gdino/vis-gdino_nano-lite0_1xb16_3e_icons.py'
_grqo = 'configs/dino_r1/dino-r1_nano-lite0_1xb16_3e_icons.py'

# All arms evaluate the moving average of the weights, which reduces the noise between seeds. All decisions use the
# scores on val_novel.
_ema = dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=2e-3, gamma=100, update_buffers=True, priority=49)
options = [f'custom_hooks=[{_ema}]']


def _fusion(kind):
    """Options of an encoder and a decoder with this kind of fusion between image and prompts."""
    encoder = dict(_delete_=True, type='SelectiveEncoder', num_layers=1, encoder_fusion=kind, num_fusion_layers=1)
    return [f'model.encoder={encoder}', f'model.decoder.decoder_fusion={kind}']


# Prompts of an image are exemplars of other images where the batch shows the class on several.
_other_images = ['model.prompts.prompt_sampling=class_prototype', 'model.prompts.exclude_self=True']
_shared_classes = ["train_dataloader.batch_sampler.type='SharedClassBatchSampler'"]
_ingredients = {
    'class prototypes': ['model.prompts.prompt_sampling=class_prototype'],
    'prompts of other images': _other_images,
    'shared classes': [*_other_images, *_shared_classes],
    'prompts per image': ['model.prompts.prompt_sampling=per_image', 'model.prompts.prompt_dropout=0.5'],
    'no fusion': _fusion('none'),
    'selective fusion': _fusion('selective'),
    'relation distillation': ["model.prompts.relation_distill=dict(weight=10, target='label')"],
    'query map': ['model.bbox_head.query_map=True'],
    'prompt memory': [
        'model.prompts.prompt_sampling=class_prototype',
        "default_hooks.prompt_memory=dict(type='PromptMemoryHook', length=16, classes_per_step=40)",
    ],
    'aggregating prompt encoder': [
        "model.prompts.encoder=dict(_delete_=True, type='AggregatingPromptEncoder', aggregator='class_token')"
    ],
    'instance contrast': ['model.bbox_head.instance_contrast=dict(weight=1, tau=0.07)'],
    'MiniLM': ["model.prompts.language_model=dict(_delete_=True, type='MiniLM')"],
}
arms = {
    'SFT': dict(config=_sft),
    'GRQO': dict(config=_grqo),
    **{name: dict(config=_sft, options=own) for name, own in _ingredients.items()},
}
seeds = [0, 1, 2]
after = {'icons': ['tools/analysis_tools/measure_icons.py', '{config}', '{checkpoint}', '--out', '{out}']}
metrics = {
    'val_novel/cross1/AP': 'novel, 1 exemplar',
    'val_novel/cross4/AP': '4',
    'val_novel/cross16/AP': '16',
    'val_novel/same16/AP': 'same drawing, 16',
    'val_novel/interactive/without_exemplar_AP50': 'without the exemplar, AP50',
    'val_novel/text/AP': 'text',
    'val_novel/recall': 'class-agnostic recall',
}
