"""Optimizers that keep the effective learning rate of scale-invariant weights: AdamP and SGDP.

Usable with torch alone. For MMEngine's configs call :func:`dinor1.blocks.adamp.register.register`, which
:func:`dinor1.register_all` does, or name the class by its path: ``type='dinor1.blocks.adamp.AdamP'``.
"""

from .adamp import AdamP
from .sgdp import SGDP

__all__ = ['AdamP', 'SGDP']
