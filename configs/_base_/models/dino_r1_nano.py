# The size that trains on two CPU cores in minutes. Everything that is not said here is as in Swin-T's file.
_base_ = './dino_r1_swin-t.py'

model = dict(
    num_queries=40,
    embed_dims=64,
    num_heads=4,
    feedforward_channels=256,
    num_feature_levels=3,
    encoder=dict(num_layers=2),
    decoder=dict(num_layers=2),
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        base_channels=16,
        num_stages=4,
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
    ),
    neck=dict(in_channels=[32, 64, 128], norm_cfg=dict(num_groups=8)),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=20)),
    test_cfg=dict(max_per_img=100),
)
