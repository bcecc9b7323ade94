# GL+(2) with translations: trained on centred digits without augmentation, tested on affine-transformed ones.
_base_ = [
    '../_base_/models/affnist_lie.py',
    '../_base_/datasets/affnist.py',
    '../_base_/schedules/affnist_40e.py',
    '../../_base_/default_runtime.py',
]

model = dict(backbone=dict(group='gl2'))
