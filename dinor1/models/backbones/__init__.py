"""Backbones beside MMDetection's own."""

from .swin import SwinTransformer

__all__ = ['SwinTransformer']
