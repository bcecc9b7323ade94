"""Backbones in addition to those of MMDetection."""

from .swin import DenormalFreeSwin

__all__ = ['DenormalFreeSwin']
