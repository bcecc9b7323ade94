# Swin-B, pretrained on ImageNet-22k at 384 pixels with windows of 12.
_base_ = './dino_r1_swin-t.py'

# MM-Grounding-DINO-B, pretrained on Objects365, GoldG and V3Det.
mm_grounding_dino = (
    'https://download.openmmlab.com/mmdetection/v3.0/mm_grounding_dino/'
    'grounding_dino_swin-b_pretrain_obj365_goldg_v3det/'
    'grounding_dino_swin-b_pretrain_obj365_goldg_v3de-f83eef00.pth'
)

model = dict(
    backbone=dict(
        pretrain_img_size=384,
        embed_dims=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=12,
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint=f'{_base_.swin_weights}/swin_base_patch4_window12_384_22k.pth'),
    ),
    neck=dict(in_channels=[256, 512, 1024]),
)
