"""Lie groups, convolutions on affine groups of the plane, and measures of equivariance; needs torch alone.

Mironenco and Forre, *Lie Group Decompositions for Equivariant Neural Networks*, ICLR 2024, arXiv 2310.11366.
"""

from .affine import Affine, Affine2
from .blocks import GroupResBlock
from .config import KernelConfig, LayerConfig, SamplingConfig, StemConfig
from .equivariance import EquivariantModule, equivariance_error, invariance_error, smooth_images, standard_elements
from .group_conv import GroupConv2d
from .groups import GROUPS, SL2, SL3, SO2, SO3, GLp2, GLp3, PositiveScaling, Similarity2, make_group
from .kernels import SirenKernel, SplineKernel, window
from .lifting import LiftingConv2d
from .masks import window_mask
from .matrix_group import MatrixGroup
from .network import AffineEquivariantNet, NetworkSamples
from .norm import GroupBatchNorm, GroupLayerNorm
from .plain import PlainConvNet
from .planar_conv import PlanarConv2d
from .pooling import GroupPool, SpatialMaxPool
from .projection import ProjectConv2d
from .rotations import encode_angle, sample_angles
from .sampler import GroupSampler, resample
from .samples import GroupSamples
from .spd import SPD, SPD2, SPD3
from .sym2 import polar2, spd_invsqrt, spd_log, spd_sqrt, sym_exp

__all__ = [
    'GROUPS',
    'SL2',
    'SL3',
    'SO2',
    'SO3',
    'SPD',
    'SPD2',
    'SPD3',
    'Affine',
    'Affine2',
    'AffineEquivariantNet',
    'EquivariantModule',
    'GLp2',
    'GLp3',
    'GroupBatchNorm',
    'GroupConv2d',
    'GroupLayerNorm',
    'GroupPool',
    'GroupResBlock',
    'GroupSampler',
    'GroupSamples',
    'KernelConfig',
    'LayerConfig',
    'LiftingConv2d',
    'MatrixGroup',
    'NetworkSamples',
    'PlainConvNet',
    'PlanarConv2d',
    'PositiveScaling',
    'ProjectConv2d',
    'SamplingConfig',
    'Similarity2',
    'SirenKernel',
    'SpatialMaxPool',
    'SplineKernel',
    'StemConfig',
    'encode_angle',
    'equivariance_error',
    'invariance_error',
    'make_group',
    'polar2',
    'resample',
    'sample_angles',
    'smooth_images',
    'spd_invsqrt',
    'spd_log',
    'spd_sqrt',
    'standard_elements',
    'sym_exp',
    'window',
    'window_mask',
]
