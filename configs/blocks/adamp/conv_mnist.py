# Three convolutions with batch norm, so that their weights are scale-invariant, without weight decay.
_base_ = [
    '../_base_/datasets/mnist.py',
    '../_base_/schedules/mnist_3e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(type='ConvNet', norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU', inplace=False)),
    embed_dims=64,
)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamP', lr=1e-2, weight_decay=0.0))
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        T_max={{_base_.max_epochs}},
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
# Record the norms of the weights, whose growth AdamP and SGDP reduce.
default_hooks = dict(weight_norm=dict(type='WeightNormHook', patterns=dict(conv=r'conv\.weight$'), interval=50))
