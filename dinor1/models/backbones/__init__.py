"""Adapters that turn building blocks into backbones, and small networks to try building blocks in."""

from .affine_equivariant import AffineEquivariantBackbone
from .conv_net import ConvNet
from .swin import SwinTransformer
from .vit import SmallViT

__all__ = ['AffineEquivariantBackbone', 'ConvNet', 'SmallViT', 'SwinTransformer']
