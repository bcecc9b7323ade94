"""Detection heads."""

from .dino_grqo_head import DINOGRQOHead
from .dino_r1_head import DINOR1Head
from .group_relative_head import GroupRelativeHead

__all__ = ['DINOGRQOHead', 'DINOR1Head', 'GroupRelativeHead']
