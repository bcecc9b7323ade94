# Three convolutions on 2,000 digits; norm and activation can be chosen.
_base_ = [
    '../_base_/datasets/mnist.py',
    '../_base_/schedules/mnist_3e.py',
    '../../_base_/default_runtime.py',
]

train_dataloader = dict(dataset=dict(num_samples=2_000))
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ConvNet', channels=(16, 32, 64), norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU', inplace=False)
    ),
    embed_dims=64,
)
