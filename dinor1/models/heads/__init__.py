"""Detection heads."""

from .dino_grqo_head import DINOGRQOHead
from .dino_r1_head import DINOR1Head

__all__ = ['DINOGRQOHead', 'DINOR1Head']
