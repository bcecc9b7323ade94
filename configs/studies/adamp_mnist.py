title = 'AdamP and SGDP against Adam and SGD on scale-invariant weights, MNIST, 10,000 training digits'
config = 'configs/blocks/adamp/conv_mnist.py'
_optimizer = 'optim_wrapper.optimizer'
arms = {
    'Adam': [f'{_optimizer}.type=Adam'],
    'AdamP': [],
    'SGD, momentum 0.9': [f'{_optimizer}.type=SGD', f'{_optimizer}.momentum=0.9', f'{_optimizer}.lr=0.1'],
    'SGDP, momentum 0.9': [f'{_optimizer}.type=SGDP', f'{_optimizer}.momentum=0.9', f'{_optimizer}.lr=0.1'],
}
seeds = [0, 1, 2]
metrics = {
    'accuracy/top1': 'top-1, %',
    'accuracy/cross_entropy': 'cross-entropy',
    'train/weight_norm/conv': 'mean norm of the convolutions',
}
note = """
Published at full scale, arXiv 2006.08217 and its project page: ResNet-18 on ImageNet, top-1 %: Adam 70.41, AdamP 70.81,
SGD 70.28, SGDP 70.73; without weight decay, as here, 68.52, 70.50, 67.94 and 70.21.
"""
