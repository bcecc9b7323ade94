"""Training in integers below 8 bits: ShiftQuant, integer layers, L1 norms, model conversion. Needs torch only."""

from .convert import DEFAULT_SKIP, quantize_model, set_enabled
from .gradient_stats import GradientStats
from .int_conv import IntConv2d
from .int_linear import IntLinear
from .int_matmul import has_int_mm, int_matmul
from .l1_norm import L1BatchNorm1d, L1BatchNorm2d, L1LayerNorm
from .layers import IntegerLayer
from .macs import MacMeter, count_macs
from .noise import NoiseSource, load_noise_state, noise_sources, noise_state
from .recipe import IntegerRecipe
from .report import LayerRecord, MacCount, QuantReport
from .shift_quantizer import ShiftQuantizer
from .shift_tensor import ShiftTensor

__all__ = [
    'DEFAULT_SKIP',
    'GradientStats',
    'IntConv2d',
    'IntLinear',
    'IntegerLayer',
    'IntegerRecipe',
    'L1BatchNorm1d',
    'L1BatchNorm2d',
    'L1LayerNorm',
    'LayerRecord',
    'MacCount',
    'MacMeter',
    'NoiseSource',
    'QuantReport',
    'ShiftQuantizer',
    'ShiftTensor',
    'count_macs',
    'has_int_mm',
    'int_matmul',
    'load_noise_state',
    'noise_sources',
    'noise_state',
    'quantize_model',
    'set_enabled',
]
