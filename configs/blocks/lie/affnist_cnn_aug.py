# affnist_cnn.py with turned and scaled training digits, drawn afresh in every epoch: the ranges of the test's rotations
# and scales (AffineRange's defaults), no shear, no shift.
_base_ = [
    '../_base_/models/affnist_cnn.py',
    '../_base_/datasets/affnist.py',
    '../_base_/schedules/affnist_40e.py',
    '../../_base_/default_runtime.py',
]

train_dataloader = dict(dataset=dict(affine=dict(shear=0.0, shift=False), redraw=True))
