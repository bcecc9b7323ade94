"""Multi-scale deformable attention: reference in plain torch, faster backends, and the choice of a backend."""

from .backends import ms_deform_attn_backend, use_ms_deform_attn_backend
from .functional import ms_deform_attn, ms_deform_attn_predicted
from .library import register_flops

__all__ = [
    'ms_deform_attn',
    'ms_deform_attn_backend',
    'ms_deform_attn_predicted',
    'register_flops',
    'use_ms_deform_attn_backend',
]
