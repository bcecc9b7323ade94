title = 'The strong recipe: ingredients of visual prompting on the icon world, the nano detector'
_config = 'configs/vis_gdino/vis-gdino_nano-lite0_1xb16_3e_icons.py'

# All arms evaluate the moving average of the weights, which reduces the noise between seeds. All decisions use the
# scores on val_novel.
_ema = dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=2e-3, gamma=100, update_buffers=True, priority=49)
options = [f'custom_hooks=[{_ema}]']

# The prompts of an image are exemplars of other images, where the batch shows the class on several.
_other_images = ['model.prompts.prompt_sampling=class_prototype', 'model.prompts.exclude_self=True']
# Batches are made so that this is the case for most classes.
_shared_classes = [*_other_images, "train_dataloader.batch_sampler.type='SharedClassBatchSampler'"]


def _fusion(kind):
    """Options of an encoder and a decoder with this kind of fusion between image and prompts."""
    encoder = dict(_delete_=True, type='SelectiveEncoder', num_layers=1, encoder_fusion=kind, num_fusion_layers=1)
    return [f'model.encoder={encoder}', f'model.decoder.decoder_fusion={kind}']


# Each of these is added to batches with shared classes.
_added = {
    'no fusion': _fusion('none'),
    'selective fusion': _fusion('selective'),
    'instance contrast': ['model.bbox_head.instance_contrast=dict(weight=1, tau=0.07)'],
    'relation distillation': ["model.prompts.relation_distill=dict(weight=10, target='label')"],
    'query map': ['model.bbox_head.query_map=True'],
    'prompt memory': ["default_hooks.prompt_memory=dict(type='PromptMemoryHook', length=16, classes_per_step=40)"],
    'aggregating prompt encoder': [
        "model.prompts.encoder=dict(_delete_=True, type='AggregatingPromptEncoder', aggregator='class_token')"
    ],
    'MiniLM': ["model.prompts.language_model=dict(_delete_=True, type='MiniLM')"],
}
arms = {
    'baseline': dict(config=_config),
    'class prototypes': dict(config=_config, options=['model.prompts.prompt_sampling=class_prototype']),
    'prompts of other images': dict(config=_config, options=_other_images),
    'shared classes': dict(config=_config, options=_shared_classes),
    **{name: dict(config=_config, options=[*_shared_classes, *own]) for name, own in _added.items()},
}
seeds = [0, 1, 2]

# Every checkpoint is measured with the scores of the decoder, and with those of its rescored boxes.
_measure = ['tools/analysis_tools/measure_icons.py', '{config}', '{checkpoint}', '--out', '{out}']
_draws = ['--draws', '1=3', '4=1', '16=1', '--interactive-draws', '1']
_rescoring = ['model.test_cfg.rescoring=dict()', "model.test_cfg.nms=dict(type='nms')"]
after = {
    'icons': [*_measure, *_draws],
    'rescored': [*_measure, *_draws, '--prefix', 'rescored', '--cfg-options', *_rescoring],
}
metrics = {
    'val_novel/cross1/AP': 'novel, 1 exemplar',
    'val_novel/cross4/AP': '4',
    'val_novel/cross16/AP': '16',
    'val_novel/interactive/without_exemplar_AP': 'without the exemplar',
    'rescored/val_novel/cross1/AP': 'rescored: 1 exemplar',
    'rescored/val_novel/cross4/AP': '4',
    'rescored/val_novel/cross16/AP': '16',
    'rescored/val_novel/interactive/without_exemplar_AP': 'without the exemplar',
    'val_novel/recall': 'class-agnostic recall',
}
