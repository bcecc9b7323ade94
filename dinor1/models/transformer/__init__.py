"""Transformer layers on MMDetection's."""

from .attention import MultiheadAttention
from .decoder import DINOR1TransformerDecoder
from .deformable_attention import MultiScaleDeformableAttention
from .encoder import DINOR1TransformerEncoder
from .positions import RememberedSinePositions

__all__ = [
    'DINOR1TransformerDecoder',
    'DINOR1TransformerEncoder',
    'MultiScaleDeformableAttention',
    'MultiheadAttention',
    'RememberedSinePositions',
]
