title = 'GRQO that acts: forms beside their controls on the icon world, the nano detector'
_forms = 'configs/studies/grqo_forms'
_sft = 'configs/vis_gdino/vis-gdino_nano-lite0_1xb16_3e_icons.py'
_loss = 'model.bbox_head.loss_'

# All arms evaluate the moving average of the weights.
_ema = dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=2e-3, gamma=100, update_buffers=True, priority=49)
options = [f'default_hooks.ema={_ema}']

# A form goes on if it beats its own control for most numbers of exemplars, and by more than the spread of seeds.
arms = {
    'SFT': dict(config=_sft),
    'own-draw KL': dict(config=f'{_forms}/own_draw_kl.py'),
    'shared-draw KL': dict(
        config=f'{_forms}/own_draw_kl.py', options=['default_hooks.reference.reference_draw=shared']
    ),
    'ranking': dict(config=f'{_forms}/prompt_ranking.py'),
    'ranking, random groups': dict(config=f'{_forms}/prompt_ranking.py', options=[f'{_loss}ranking.groups=random']),
    'ranking, uniform': dict(config=f'{_forms}/prompt_ranking.py', options=[f'{_loss}ranking.weights=uniform']),
    'one-to-many': dict(config=f'{_forms}/one_to_many.py'),
    'one-to-many, uniform': dict(config=f'{_forms}/one_to_many.py', options=[f'{_loss}one_to_many.weights=uniform']),
    'exemplar group': dict(config=f'{_forms}/exemplar_group.py'),
    'exemplar group, uniform': dict(
        config=f'{_forms}/exemplar_group.py', options=[f'{_loss}exemplar_group.weights=uniform']
    ),
    'exemplar group, shuffled': dict(
        config=f'{_forms}/exemplar_group.py', options=[f'{_loss}exemplar_group.weights=shuffled']
    ),
    'exemplar group, flipped': dict(
        config=f'{_forms}/exemplar_group.py', options=[f'{_loss}exemplar_group.weights=flipped']
    ),
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
