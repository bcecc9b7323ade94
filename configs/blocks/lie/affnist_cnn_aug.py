# affnist_cnn.py with rotated and scaled training digits, drawn again in every epoch: rotations and scales have the
# ranges of the test (the defaults of AffineRange), without shear and shift.
_base_ = [
    '../_base_/models/affnist_cnn.py',
    '../_base_/datasets/affnist.py',
    '../_base_/schedules/affnist_40e.py',
    '../../_base_/default_runtime.py',
]

train_dataloader = dict(dataset=dict(affine=dict(shear=0.0, shift=False), redraw=True))
