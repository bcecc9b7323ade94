"""Transformer: encoder, query selection and decoder, from image tokens and prompts to queries."""

from .attention import BatchFirstMultiheadAttention
from .decoder import PromptedDecoder
from .decoding import decode_queries
from .deformable_attention import MSDeformAttention
from .denoising import DenoisingQueries, denoising_queries
from .dims import TransformerDims
from .encoder import PromptedEncoder
from .fusion import PromptFusionBlock
from .image_tokens import flatten_levels
from .positions import CachedSinePositions
from .query_selection import TokenScores, score_tokens, select_queries
from .selective_encoder import SelectiveEncoder
from .similarity import PromptSimilarity, selective_gate

__all__ = [
    'BatchFirstMultiheadAttention',
    'CachedSinePositions',
    'DenoisingQueries',
    'MSDeformAttention',
    'PromptFusionBlock',
    'PromptSimilarity',
    'PromptedDecoder',
    'PromptedEncoder',
    'SelectiveEncoder',
    'TokenScores',
    'TransformerDims',
    'decode_queries',
    'denoising_queries',
    'flatten_levels',
    'score_tokens',
    'select_queries',
    'selective_gate',
]
