# A small pre-norm ViT on 10,000 digits. To choose another norm: model.backbone.norm_cfg.type=UN.
_base_ = [
    '../_base_/datasets/mnist.py',
    '../_base_/schedules/mnist_3e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(type='SmallViT', norm_cfg=dict(type='LN'), embed_dims=48, num_layers=4, feedforward_channels=96),
    embed_dims=48,
)
