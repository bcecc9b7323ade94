title = 'The icon world: baselines, the nano detector'
_sft = 'configs/vis_gdino/vis-gdino_nano-lite0_1xb16_3e_icons.py'
_grqo = 'configs/dino_r1/dino-r1_nano-lite0_1xb16_3e_icons.py'

# All arms evaluate the moving average of the weights, which reduces the noise between seeds. All decisions use the
# scores on val_novel.
_ema = dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=2e-3, gamma=100, update_buffers=True, priority=49)
options = [f'custom_hooks=[{_ema}]']

arms = {
    'SFT': dict(config=_sft),
    'GRQO': dict(config=_grqo),
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
