"""Transformer layers on MMDetection's."""

from .decoder import DINOR1TransformerDecoder
from .deformable_attention import MultiScaleDeformableAttention
from .encoder import DINOR1TransformerEncoder

__all__ = ['DINOR1TransformerDecoder', 'DINOR1TransformerEncoder', 'MultiScaleDeformableAttention']
