"""Masks that cut a kernel network off towards the edge of its window.

A kernel network has unbounded support, while the window is finite. An element that stretches by s needs ``s`` times the
support of the kernel; the part outside of the window is lost, and with it equivariance. Only a mask that vanishes
inside the window by the factor s is exactly equivariant: ``bump`` with ``support_radius <= 1 / s``.
"""

from typing import Literal

import torch
from torch import Tensor

Mask = Literal['auto', 'hard', 'smooth', 'bump']
MASKS: tuple[Mask, ...] = ('auto', 'hard', 'smooth', 'bump')


def window_mask(mask: Mask | None, spatial: Tensor, offsets: Tensor | None, radius: float) -> Tensor | None:
    """Factor that multiplies the kernel at each point.

    Args:
        mask: ``hard``: 1 on the disc ``|x| <= radius``, published for SL(2). ``smooth``:
            ``sigmoid(2 (radius - |(x, offsets)|))``, published for GL+(2); about 1/2 at the window's edge.
            ``bump``: ``(1 - |x|^2 / radius^2)^2`` inside the disc, 0 outside: continuously differentiable.
            None: no mask.
        spatial: ``(..., 2)`` points ``g^-1 x`` of the window.
        offsets: ``(..., d)`` coordinates of ``g^-1 g'``, 0 at the identity; broadcast with ``spatial``. None in a
            lifting, where there is no g'.
        radius: Radius of the support, in units of half the window.

    Returns:
        Factors of the broadcast leading shape, or None.
    """
    if mask is None:
        return None
    square = spatial.square().sum(-1)
    if mask == 'hard':
        return (square <= radius**2).to(spatial)
    if mask == 'bump':
        return (1 - square / radius**2).clamp(min=0).square()
    # The smooth mask also decays with the distance on the group.
    if offsets is not None:
        square = square + offsets.square().sum(-1)
    return torch.sigmoid(2 * (radius - square.sqrt()))
