"""Backbones beside MMDetection's own."""

from .swin import DenormalFreeSwin

__all__ = ['DenormalFreeSwin']
