# MNIST in frames of 40 pixels: training on centred digits, tests on digits that are transformed as in affNIST.
_base_ = './mnist.py'

num_samples = 1_000
frame = dict(side=40)
train_dataloader = dict(batch_size=50, dataset=dict(num_samples=num_samples, **frame))
# The defaults of AffineRange are the ranges of affNIST.
val_dataloader = dict(dataset=dict(affine=dict(), **frame))
test_dataloader = val_dataloader
