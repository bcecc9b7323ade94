# Swin-L, pretrained on ImageNet-22k at 384 pixels with windows of 12. Four feature levels as well.
_base_ = './dino_r1_swin-t.py'

model = dict(
    backbone=dict(
        pretrain_img_size=384,
        embed_dims=192,
        depths=[2, 2, 18, 2],
        num_heads=[6, 12, 24, 48],
        window_size=12,
        init_cfg=dict(checkpoint=f'{_base_.swin_weights}/swin_large_patch4_window12_384_22k.pth'),
    ),
    neck=dict(in_channels=[384, 768, 1536]),
)
