"""Operators. Each one has a definition in plain torch, which needs no compiler."""

from .ms_deform_attn import (
    ms_deform_attn,
    ms_deform_attn_backend,
    ms_deform_attn_predicted,
    register_flops,
    use_ms_deform_attn_backend,
)

__all__ = [
    'ms_deform_attn',
    'ms_deform_attn_backend',
    'ms_deform_attn_predicted',
    'register_flops',
    'use_ms_deform_attn_backend',
]
