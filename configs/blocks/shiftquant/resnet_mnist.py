# A narrow ResNet-18 without its last stage on 10,000 digits, trained with 4-bit integers.
_base_ = [
    '../_base_/datasets/mnist.py',
    '../_base_/schedules/mnist_3e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet',
        depth=18,
        in_channels=1,
        base_channels=16,
        stem_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
    ),
    embed_dims=64,
)
# The first convolution and the last linear layer stay in floating point.
model_converters = [dict(type='IntegerTraining', bits=(4, 4, 4), skip=['backbone.conv1', 'head'], backend='int8')]
