"""Detection heads."""

from .dino_grqo_head import DINOGRQOHead
from .dino_r1_head import DINOR1Head
from .grqo_mixin import GRQOMixin

__all__ = ['DINOGRQOHead', 'DINOR1Head', 'GRQOMixin']
