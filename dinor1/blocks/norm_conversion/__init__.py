"""Converters between the norms of :mod:`dinor1.blocks.normalization`: equal outputs with cheaper norms or none."""

from .folding import ChannelAffine
from .fuse import fuse_unified_norm
from .pre_crmsnorm import to_pre_crmsnorm
from .pre_rmsnorm import bake_centring, to_pre_rmsnorm
from .remove_layernorm import collect_ln_std, remove_layernorm, swap_layernorm_for_fixed_std
from .replace import bypass_fused_encoders, replace_norm
from .report import ConversionReport, NormRecord
from .residual_streams import Branch, Exit, ResidualStream

__all__ = [
    'Branch',
    'ChannelAffine',
    'ConversionReport',
    'Exit',
    'NormRecord',
    'ResidualStream',
    'bake_centring',
    'bypass_fused_encoders',
    'collect_ln_std',
    'fuse_unified_norm',
    'remove_layernorm',
    'replace_norm',
    'swap_layernorm_for_fixed_std',
    'to_pre_crmsnorm',
    'to_pre_rmsnorm',
]
