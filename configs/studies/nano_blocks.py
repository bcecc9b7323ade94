title = 'Norms and AdamP in the nano detector, shapes world, supervised, three epochs'
config = 'configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes.py'
options = ['train_cfg.max_epochs=3', 'train_cfg.val_interval=3', 'param_scheduler.0.total_steps=3']
_norm = 'model.transformer.norm_cfg'
_optimizer = 'optim_wrapper.optimizer'
arms = {
    'LN, AdamW': [],
    'RMSNorm': [f'{_norm}.type=RMSNorm'],
    'UN, window 4, warm-up 100': [f'{_norm}.type=UN', f'{_norm}.warmup_iters=100', f'{_norm}.outlier_filtration=True'],
    # Find the part of UN that matters: exact statistics of the step in both passes; exact ones in the forward pass
    # only; as above, with a lower learning rate.
    'UN, window 1': [f'{_norm}.type=UN', f'{_norm}.window_size=1', f'{_norm}.warmup_iters=100'],
    'UN, window 4, all warm-up': [f'{_norm}.type=UN', f'{_norm}.warmup_iters=4000'],
    'UN, window 4, warm-up 100, rate / 6': [
        f'{_norm}.type=UN',
        f'{_norm}.warmup_iters=100',
        f'{_optimizer}.lr=5e-4',
        'param_scheduler.0.eta_max=5e-4',
    ],
    'PN, 4 groups, warm-up 100': [f'{_norm}.type=PN', f'{_norm}.warmup_iters=100', f'{_norm}.group_num=4'],
    'BN over tokens': [f'{_norm}.type=TokenBN'],
    'AdamP': [
        f'{_optimizer}._delete_=True',
        f'{_optimizer}.type=AdamP',
        f'{_optimizer}.lr=3e-3',
        f'{_optimizer}.weight_decay=1e-4',
    ],
}
for _name in ('SGD', 'SGDP'):
    for _rate in (0.1, 0.01):
        arms[f'{_name}, rate {_rate}'] = [
            f'{_optimizer}._delete_=True',
            f'{_optimizer}.type={_name}',
            f'{_optimizer}.lr={_rate}',
            f'{_optimizer}.momentum=0.9',
            'param_scheduler.0.eta_max=' + str(_rate),
        ]
seeds = [0]
metrics = {'coco/bbox_mAP': 'val_base AP', 'coco/bbox_mAP_50': 'AP50'}
note = """
The norm is that of the transformer, the prompt encoder and the fusion (`model.transformer.norm_cfg`); backbone and neck
keep theirs. Published for detectors: AdamP against Adam on COCO, CenterNet from scratch, AP 27.11 against 26.57
(project page of arXiv 2006.08217); none of the papers on norms has tried one.
"""
