"""Operators: each is defined in plain torch and needs no compiler."""

from dinor1.ops.ms_deform_attn import ms_deform_attn, ms_deform_attn_predicted
from dinor1.ops.msda_backends import ms_deform_attn_backend, use_ms_deform_attn_backend
from dinor1.ops.msda_library import register_flops

__all__ = [
    'ms_deform_attn',
    'ms_deform_attn_backend',
    'ms_deform_attn_predicted',
    'register_flops',
    'use_ms_deform_attn_backend',
]
