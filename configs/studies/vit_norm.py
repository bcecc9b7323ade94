title = 'Norms of a small pre-norm ViT, MNIST, 10,000 training digits'
config = 'configs/blocks/normalization/vit_mnist.py'
_norm = 'model.backbone.norm_cfg'
arms = {
    'LN': [],
    'RMSNorm': [f'{_norm}.type=RMSNorm'],
    'L1LN': [f'{_norm}.type=L1LN'],
    'UN, window 4, warm-up 100': [f'{_norm}.type=UN', f'{_norm}.warmup_iters=100', f'{_norm}.outlier_filtration=True'],
    'PN, 4 groups, warm-up 100': [f'{_norm}.type=PN', f'{_norm}.warmup_iters=100', f'{_norm}.group_num=4'],
    'BN over tokens': [f'{_norm}.type=TokenBN'],
    'none': ['model.backbone.norm_cfg=None'],
}
seeds = [0, 1, 2]
metrics = {'accuracy/top1': 'top-1, %', 'accuracy/cross_entropy': 'cross-entropy'}
note = """
Published at full scale: UN against LN on ImageNet with T2T-ViT-14 80.9 against 81.5 % top-1, on CIFAR-10 98.3 and
98.3 % (BN: 79.8 and 96.6 %), arXiv 2208.01313; PN has no published vision result.
"""
