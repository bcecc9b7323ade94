"""Normalisation layers, one file per method. Needs torch only."""

from .evo_norm import EvoNormB0, EvoNormB1, EvoNormB2, EvoNormS0, EvoNormS1, EvoNormS2, is_norm_act
from .fixed_std_norm import FixedStdLayerNorm
from .l1_norm import L1BatchNorm, L1LayerNorm
from .power_norm import PowerNorm
from .registry import NORMS, is_norm
from .rms_norm import CRMSNorm, RMSNorm
from .token_batch_norm import TokenBatchNorm
from .unified_norm import UnifiedNorm

__all__ = [
    'NORMS',
    'CRMSNorm',
    'EvoNormB0',
    'EvoNormB1',
    'EvoNormB2',
    'EvoNormS0',
    'EvoNormS1',
    'EvoNormS2',
    'FixedStdLayerNorm',
    'L1BatchNorm',
    'L1LayerNorm',
    'PowerNorm',
    'RMSNorm',
    'TokenBatchNorm',
    'UnifiedNorm',
    'is_norm',
    'is_norm_act',
]
