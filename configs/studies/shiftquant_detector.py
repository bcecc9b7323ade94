title = 'The nano detector in integers, shapes world, two epochs'
config = 'configs/blocks/shiftquant/vis-gdino_nano_shapes.py'
# Load without worker processes, because the images are small.
options = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
_bits = 'model_converters.0.bits'
arms = {
    'floating point': [f'{_bits}=(32,32,32)'],
    '8/8/8': [],
    '6/6/6': [f'{_bits}=(6,6,6)'],
}
seeds = [0, 1, 2]
metrics = {'coco/bbox_mAP': 'val_base AP', 'coco/bbox_mAP_50': 'AP50', 'train/integer_macs': 'integer share of MACs'}
note = """
Bits of weights/activations/gradients; visual-generic prompts. In floating point: first convolution, heads, sampling
offsets and weights of deformable attention, its sampling, torch's multi-head attention, norms. The paper
(arXiv 2411.10948) has no detector.
"""
