# MNIST in frames of 40 pixels: training on centred digits, tests on affine-transformed ones by affNIST's recipe.
_base_ = './mnist.py'

num_samples = 1_000
frame = dict(side=40)
train_dataloader = dict(batch_size=50, dataset=dict(num_samples=num_samples, **frame))
# The ranges of affNIST are AffineRange's defaults.
val_dataloader = dict(dataset=dict(affine=dict(), **frame))
test_dataloader = val_dataloader
