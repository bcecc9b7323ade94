title = 'GRQO against supervised fine-tuning at equal iterations, the nano detector'
_sft = 'configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes.py'
_grqo = 'configs/dino_r1/dino-r1_nano_1xb8_6e_shapes.py'
_novel = 'configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes-novel.py'

# Validate only twice per run. The results are the measurements at the end of the run.
options = ['default_hooks.gradients.type=LossGradientHook', 'default_hooks.visualization.num_images=4']
_shapes = ['train_cfg.val_interval=3', 'default_hooks.gradients.interval=125']
_last_only = ['default_hooks.checkpoint.max_keep_ckpts=1']


def _measure(*sets):
    tool = ['tools/analysis_tools/measure_detector.py', '{checkpoint}', '--out', '{out}', '--prompt-seeds', '3']
    return dict(measures=[*tool, *(part for name in sets for part in ('--set', name))])


_loss, _hook = 'model.bbox_head.loss_grqo', 'default_hooks.reference'
_hook_settings = ('warmup', 'refresh', 'mode', 'dtype')
_few = [0, 1, 2]


def _setting(change):
    """Option of the loss, or of the hook that owns the reference model."""
    return f'{_hook if change.split("=")[0] in _hook_settings else _loss}.{change}'


def _variant(*changes, seeds=_few):
    """Arm of GRQO that continues from the first epoch of SFT with the same seed."""
    start = dict(arm='SFT', checkpoint='epoch_1.pth', resume=True)
    own = [*_shapes, *_last_only, *map(_setting, changes)]
    return dict(config=_grqo, options=own, seeds=seeds, start=start)


def _real(data, shared=2, schedule=(), grqo=()):
    """Arms SFT and GRQO on photographs, which fine-tune the SFT detector of the same seed and share first epochs."""
    own = ['default_hooks.gradients.interval=27', *schedule]
    sft = f'configs/vis_gdino/vis-gdino_nano_1xb8_12e_{data}.py'
    after = _measure(f'test={sft}')
    sft_arm = dict(
        config=sft,
        options=[*own, 'default_hooks.checkpoint.max_keep_ckpts=-1'],
        seeds=_few,
        start=dict(arm='SFT', checkpoint='epoch_6.pth'),
        after=after,
    )
    grqo_arm = dict(
        config=f'configs/dino_r1/dino-r1_nano_1xb8_12e_{data}.py',
        options=[*own, *_last_only, *grqo],
        seeds=_few,
        start=dict(arm=f'SFT, {data}', checkpoint=f'epoch_{shared}.pth', resume=True),
        after=after,
    )
    return {f'SFT, {data}': sft_arm, f'GRQO, {data}': grqo_arm}


# Train longer: after the twelve epochs of the config, SFT has an AP of 0.008, too low for a comparison.
_longer = ['train_cfg.max_epochs=24', 'train_cfg.val_interval=8', 'param_scheduler.0.total_steps=24']
after = _measure(f'base={_sft}', f'novel={_novel}')
arms = {
    'SFT': dict(config=_sft, options=_shapes),
    'GRQO': _variant(seeds=[0, 1, 2, 3, 4]),
    'without KL': _variant('beta=0.0'),
    'KL alone': _variant('alpha=0.0'),
    'without mute': _variant('mute=0.0', 'allow_vanishing=True'),
    'policy': _variant('objective=policy'),
    'alpha 0.001': _variant('alpha=0.001'),
    'alpha 0.1': _variant('alpha=0.1'),
    'alpha 1': _variant('alpha=1.0'),
    'reference never refreshed': _variant('refresh=None'),
    'reference in bfloat16': _variant('dtype=bfloat16'),
    'prompt groups': _variant('groups=prompt', 'one_sided_kl=True'),
    'prompt groups, alpha 1': _variant('groups=prompt', 'one_sided_kl=True', 'alpha=1.0'),
    **_real('bccd'),
    **_real('aquarium', shared=4, schedule=_longer, grqo=[f'{_hook}.warmup=4']),
}
seeds = [0, 1, 2, 3, 4]
metrics = {'coco/bbox_mAP': 'AP of the last validation', 'coco/bbox_mAP_50': 'AP50'}
keep = dict(gradients='loss_gradients.json')
curves = ['loss', 'grqo_kl', 'grqo_objectness_entropy', 'grqo_advantage_matched', 'grqo_advantage_kept']
