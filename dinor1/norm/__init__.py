"""Normalisation layers, one file per method, and converters between them. Needs nothing but torch."""

from .evo_norm import EvoNormB0, EvoNormB1, EvoNormB2, EvoNormS0, EvoNormS1, EvoNormS2, is_norm_act
from .fixed_std_norm import FixedStdLayerNorm
from .folding import ChannelAffine
from .fuse import fuse_unified_norm
from .l1_norm import L1BatchNorm, L1LayerNorm
from .power_norm import PowerNorm
from .pre_crmsnorm import to_pre_crmsnorm
from .pre_rmsnorm import bake_centring, to_pre_rmsnorm
from .registry import NORMS, is_norm, register
from .remove_layernorm import collect_ln_std, remove_layernorm, swap_layernorm_for_fixed_std
from .replace import bypass_fused_encoders, replace_norm
from .report import ConversionReport, NormRecord
from .rms_norm import CRMSNorm, RMSNorm
from .streams import Branch, Exit, ResidualStream
from .token_batch_norm import TokenBatchNorm
from .unified_norm import UnifiedNorm

__all__ = [
    'NORMS',
    'Branch',
    'CRMSNorm',
    'ChannelAffine',
    'ConversionReport',
    'EvoNormB0',
    'EvoNormB1',
    'EvoNormB2',
    'EvoNormS0',
    'EvoNormS1',
    'EvoNormS2',
    'Exit',
    'FixedStdLayerNorm',
    'L1BatchNorm',
    'L1LayerNorm',
    'NormRecord',
    'PowerNorm',
    'RMSNorm',
    'ResidualStream',
    'TokenBatchNorm',
    'UnifiedNorm',
    'bake_centring',
    'bypass_fused_encoders',
    'collect_ln_std',
    'fuse_unified_norm',
    'is_norm',
    'is_norm_act',
    'register',
    'remove_layernorm',
    'replace_norm',
    'swap_layernorm_for_fixed_std',
    'to_pre_crmsnorm',
    'to_pre_rmsnorm',
]
