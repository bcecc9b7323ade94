"""Backbones that MMDetection lacks, and the neck that a plain vision transformer needs."""

from .channels import check_neck_channels
from .simple_feature_pyramid import SimpleFeaturePyramid
from .swin import DenormalFreeSwin
from .timm_backbone import TimmBackbone

__all__ = ['DenormalFreeSwin', 'SimpleFeaturePyramid', 'TimmBackbone', 'check_neck_channels']
