# A plain network: trained on centred digits without augmentation, tested on affine-transformed ones.
_base_ = [
    '../_base_/models/affnist_cnn.py',
    '../_base_/datasets/affnist.py',
    '../_base_/schedules/affnist_40e.py',
    '../../_base_/default_runtime.py',
]
