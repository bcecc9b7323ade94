title = 'Losses with advantages as weights, compared with their controls, on the icon world, the nano detector'
_sft = 'configs/vis_gdino/vis-gdino_nano-lite0_1xb16_3e_icons.py'
# All arms evaluate the moving average of the weights.
_ema = dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=2e-3, gamma=100, update_buffers=True, priority=49)


def _arm(form, *options, balanced=True):
    """Arm with one of the losses, which gets its share of the gradient after 150 of the 750 iterations."""
    warmup = ['custom_hooks.0.warmup=150'] if balanced else []
    return dict(
        config=f'configs/studies/grqo_forms/{form}.py', options=[f'default_hooks.ema={_ema}', *warmup, *options]
    )


# A loss is studied further if its score exceeds that of its control for most numbers of exemplars, and by more than the
# spread of the seeds.
arms = {
    # This run is also part of the study icons.
    'SFT': dict(config=_sft, options=[f'custom_hooks=[{_ema}]']),
    'own-draw KL': _arm('own_draw_kl', balanced=False),
    'shared-draw KL': _arm('own_draw_kl', 'default_hooks.reference.reference_draw=shared', balanced=False),
    'ranking': _arm('prompt_ranking'),
    'ranking, random groups': _arm('prompt_ranking', 'model.bbox_head.loss_ranking.groups=random'),
    'ranking, uniform': _arm('prompt_ranking', 'model.bbox_head.loss_ranking.weights=uniform'),
    'one-to-many': _arm('one_to_many'),
    'one-to-many, uniform': _arm('one_to_many', 'model.bbox_head.loss_one_to_many.weights=uniform'),
    'exemplar group': _arm('exemplar_group'),
    'exemplar group, uniform': _arm('exemplar_group', 'model.bbox_head.loss_exemplar_group.weights=uniform'),
    'exemplar group, shuffled': _arm('exemplar_group', 'model.bbox_head.loss_exemplar_group.weights=shuffled'),
    'exemplar group, flipped': _arm('exemplar_group', 'model.bbox_head.loss_exemplar_group.weights=flipped'),
}
seeds = [0, 1]
after = {'icons': ['tools/analysis_tools/measure_icons.py', '{config}', '{checkpoint}', '--out', '{out}']}
metrics = {
    'val_novel/cross1/AP': 'novel, 1 exemplar',
    'val_novel/cross4/AP': '4',
    'val_novel/cross16/AP': '16',
    'val_novel/same16/AP': 'same drawing, 16',
    'val_novel/interactive/without_exemplar_AP50': 'without the exemplar, AP50',
    'val_novel/recall': 'class-agnostic recall',
}
