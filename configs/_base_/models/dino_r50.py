# MMDetection's DINO-4scale with ResNet-50, arXiv 2203.03605, prepared for GRQO: fixed classes instead of prompts.
# The numbers are those of mmdet's dino-4scale_r50_8xb2-12e_coco. MMDetection's decoder has 256 channels by force.
# DINO-R1 has its preprocessing, losses and denoising from DINO: these alone are read from the file of Swin-T.
_base_ = './dino_r1_swin-t.py'

model = dict(
    _delete_=True,
    type='DINOGRQO',
    num_queries=_base_.model.num_queries,
    with_box_refine=True,
    as_two_stage=True,
    num_feature_levels=4,
    data_preprocessor=dict(_base_.model.data_preprocessor, pad_size_divisor=1),
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
    neck=dict(
        type='ChannelMapper',
        in_channels=[512, 1024, 2048],
        kernel_size=1,
        out_channels=256,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=32),
        num_outs=4,
    ),
    encoder=dict(
        num_layers=6,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_levels=4, dropout=0.0),
            ffn_cfg=dict(embed_dims=256, feedforward_channels=2048, ffn_drop=0.0),
        ),
    ),
    decoder=dict(
        num_layers=6,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_heads=8, dropout=0.0),
            cross_attn_cfg=dict(embed_dims=256, num_levels=4, dropout=0.0),
            ffn_cfg=dict(embed_dims=256, feedforward_channels=2048, ffn_drop=0.0),
        ),
        post_norm_cfg=None,
    ),
    positional_encoding=dict(_base_.model.positional_encoding, num_feats=128),
    bbox_head=dict(
        type='DINOGRQOHead',
        num_classes=80,
        sync_cls_avg_factor=True,
        loss_cls=_base_.model.bbox_head.loss_cls,
        loss_bbox=_base_.model.bbox_head.loss_bbox,
        loss_iou=_base_.model.bbox_head.loss_iou,
    ),
    dn_cfg=_base_.model.dn_cfg,
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                *_base_.model.train_cfg.assigner.match_costs[1:],
            ],
        )
    ),
    test_cfg=_base_.model.test_cfg,
)
