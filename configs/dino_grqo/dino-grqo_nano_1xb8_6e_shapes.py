# GRQO on MMDetection's plain DINO, small enough for training on two CPU cores, with the 12 base categories of the
# shapes world: one epoch of supervised training, then GRQO. Sizes are those of dino_r1_nano, except the 256 channels.
_base_ = [
    '../_base_/models/dino_r50.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/nano_6e.py',
    '../_base_/grqo_runtime.py',
]

model = dict(
    num_queries=40,
    num_feature_levels=3,
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        base_channels=24,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(1, 2),
        deep_stem=True,
        avg_down=True,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        zero_init_residual=False,
        style='pytorch',
    ),
    neck=dict(in_channels=[48, 96], num_outs=3),
    encoder=dict(
        num_layers=1,
        layer_cfg=dict(self_attn_cfg=dict(num_levels=3), ffn_cfg=dict(feedforward_channels=256)),
    ),
    decoder=dict(
        num_layers=2,
        layer_cfg=dict(cross_attn_cfg=dict(num_levels=3), ffn_cfg=dict(feedforward_channels=256)),
    ),
    bbox_head=dict(num_classes=12, loss_cls=dict(loss_weight=2.0), loss_grqo={{_base_.loss_grqo}}),
    dn_cfg=dict(label_noise_scale=0.2, group_cfg=dict(num_dn_queries=20)),
    test_cfg=dict(max_per_img=100),
)

# The detector takes no prompts: MMEngine's own loops evaluate it.
val_cfg = dict(_delete_=True, type='ValLoop')
test_cfg = dict(_delete_=True, type='TestLoop')
