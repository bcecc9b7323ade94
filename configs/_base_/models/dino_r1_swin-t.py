# DINO-R1 with a Swin-T backbone, with visual prompts only. Sizes B and L change the settings of the backbone.
# The published Swin weights, pretrained on ImageNet; they are downloaded when a training starts.
swin_weights = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0'
# MMDetection's MM-Grounding-DINO-T, pretrained on Objects365, GoldG, GRIT-9M and V3Det, for recipes that fine-tune it.
mm_grounding_dino = (
    'https://download.openmmlab.com/mmdetection/v3.0/mm_grounding_dino/'
    'grounding_dino_swin-t_pretrain_obj365_goldg_grit9m_v3det/'
    'grounding_dino_swin-t_pretrain_obj365_goldg_grit9m_v3det_20231204_095047-b448804b.pth'
)

model = dict(
    type='DINOR1',
    num_queries=900,
    transformer=dict(
        embed_dims=256,
        num_heads=8,
        feedforward_channels=2048,
        num_points=4,
        num_feature_levels=4,
        norm_cfg=dict(type='LN'),
    ),
    encoder=dict(type='PromptedEncoder', num_layers=6),
    decoder=dict(type='PromptedDecoder', num_layers=6),
    prompts=dict(encoder=dict(type='VisualPromptEncoder')),
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='DenormalFreeSwin',
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.2,
        out_indices=(1, 2, 3),
        # Recompute activations in the backward pass, so that a batch of large images fits into memory.
        with_cp=True,
        convert_weights=True,
        init_cfg=dict(type='Pretrained', checkpoint=f'{swin_weights}/swin_tiny_patch4_window7_224.pth'),
    ),
    neck=dict(
        type='ChannelMapper',
        in_channels=[192, 384, 768],
        kernel_size=1,
        bias=True,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=32),
    ),
    positional_encoding=dict(normalize=True, offset=0.0, temperature=20),
    bbox_head=dict(
        type='DINOR1Head',
        num_classes=256,  # size of the denoising label embedding, as in MM-Grounding-DINO's checkpoints
        sync_cls_avg_factor=True,
        contrastive_cfg=dict(log_scale='auto', bias=True),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=100),
    ),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='BinaryFocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=300),
)
