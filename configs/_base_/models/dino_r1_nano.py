# Detector that trains from scratch on two CPU cores in minutes. Other settings are those of dino_r1_swin-t.py.
_base_ = './dino_r1_swin-t.py'

model = dict(
    num_queries=40,
    transformer=dict(embed_dims=64, num_heads=4, feedforward_channels=256, num_feature_levels=3),
    encoder=dict(num_layers=1, fusion=dict(embed_dims=64, init_values=0.1, dropout=0.0)),
    decoder=dict(num_layers=2),
    # Class names consist of a few attributes: the sum of word vectors suffices, and needs no download.
    prompts=dict(
        language_model=dict(type='WordHashModel'),
        alignment=dict(type='LanguageAlignment', loss_weight=2.0),
        text_prompts='class',
    ),
    # Wide early stages, which separate small shapes; strides 8 and 16, and the neck adds 32.
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
    neck=dict(in_channels=[48, 96], norm_cfg=dict(num_groups=8)),
    bbox_head=dict(loss_cls=dict(loss_weight=2.0)),
    dn_cfg=dict(label_noise_scale=0.2, group_cfg=dict(num_dn_queries=20)),
    test_cfg=dict(max_per_img=100),
)
