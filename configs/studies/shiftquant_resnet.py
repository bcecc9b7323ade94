title = 'A narrow ResNet in integers, MNIST, 10,000 training digits'
config = 'configs/blocks/shiftquant/resnet_mnist.py'
_recipe = 'model_converters.0'
_bits = f'{_recipe}.bits'
_per_tensor = f'{_recipe}.groups=1'
arms = {
    'floating point': [f'{_bits}=(32,32,32)'],
    '8/8/8': [f'{_bits}=(8,8,8)'],
    '6/6/6': [f'{_bits}=(6,6,6)'],
    '6/6/6, one gradient scale': [f'{_bits}=(6,6,6)', _per_tensor],
    '4/4/4': [],
    '4/4/4, one gradient scale': [_per_tensor],
    '4/4/4, L1 norm': [f'{_recipe}.norm=l1'],
    '4/4/3': [f'{_bits}=(4,4,3)'],
    '4/4/3, one gradient scale': [f'{_bits}=(4,4,3)', _per_tensor],
    '4/4/3, one scale, to nearest': [f'{_bits}=(4,4,3)', _per_tensor, f'{_recipe}.grad_rounding=nearest'],
}
seeds = [0, 1, 2]
metrics = {
    'accuracy/top1': 'top-1, %',
    'accuracy/cross_entropy': 'cross-entropy',
    'train/integer_macs': 'integer share of MACs',
}
note = """
Bits of weights/activations/gradients. In floating point: the first convolution, the head, batch norms, weights as the
optimizer sees them. This is our ShiftQuant, not the paper's code. Published at full scale, arXiv 2411.10948: 4-bit
ResNets lose 0.92 % (which networks and data, the abstract does not say).
"""
