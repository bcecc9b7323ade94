"""Adapters that turn building blocks into backbones, and small networks to try building blocks in."""

from .conv_net import ConvNet
from .vit import SmallViT

__all__ = ['ConvNet', 'SmallViT']
