"""Operators: each is defined in plain torch and needs no compiler."""

from dinor1.ops.ms_deform_attn import ms_deform_attn

__all__ = ['ms_deform_attn']
