# Swin-L, pretrained on ImageNet-22k at 384 pixels with windows of 12. It has five feature levels, from stride 4 on,
# like MM-Grounding-DINO-L: with four levels, the weights of neck and deformable attention would not fit.
_base_ = './dino_r1_swin-t.py'

# MM-Grounding-DINO-L, pretrained on Objects365 v2, OpenImages v6 and GoldG.
mm_grounding_dino = (
    'https://download.openmmlab.com/mmdetection/v3.0/mm_grounding_dino/'
    'grounding_dino_swin-l_pretrain_obj365_goldg/'
    'grounding_dino_swin-l_pretrain_obj365_goldg-34dcdc53.pth'
)

model = dict(
    transformer=dict(num_feature_levels=5),
    backbone=dict(
        pretrain_img_size=384,
        embed_dims=192,
        depths=[2, 2, 18, 2],
        num_heads=[6, 12, 24, 48],
        window_size=12,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(checkpoint=f'{_base_.swin_weights}/swin_large_patch4_window12_384_22k.pth'),
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
