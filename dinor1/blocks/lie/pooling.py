"""Pooling over space within each sample, over the group to a map on the plane, or over both to an invariant."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from .equivariance import EquivariantModule
from .samples import GroupSamples


class SpatialMaxPool(EquivariantModule):
    """Maximum over windows of ``kernel_size`` squared, within each sample.

    Law: exact up to interpolation, since the windows are squares and do not turn; exact for quarter turns of maps whose
    side is a multiple of the window, and for shifts by multiples of the window.

    Args:
        kernel_size: Side of the windows, and the stride.
    """

    def __init__(self, kernel_size: int = 2) -> None:
        super().__init__()
        if kernel_size < 1:
            raise ValueError(f'kernel_size must be at least 1, got {kernel_size}')
        self.kernel_size = kernel_size
        self.check_size = 20 * kernel_size

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return f'kernel_size={self.kernel_size}'

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, N, H, W)`` -> ``(B, C, N, H // kernel_size, W // kernel_size)``."""
        if x.dim() != 5 or min(x.shape[-2:]) < self.kernel_size:
            raise ValueError(
                f'SpatialMaxPool takes (B, C, N, H, W) with H and W at least {self.kernel_size}, got {tuple(x.shape)}'
            )
        return F.max_pool2d(x.flatten(1, 2), self.kernel_size).unflatten(1, x.shape[1:3])

    def respond(self, x: Tensor, samples: GroupSamples) -> Tensor:
        """Apply the layer with input and output on the same samples."""
        return self(x)


class GroupPool(EquivariantModule):
    """Maximum or mean over the group.

    Law: over samples alone the result is an equivariant map on the plane, ``Phi(L_h f)(x) = Phi(f)(h^-1 x)``; over
    samples and space it is an invariant vector. Exact with transported samples. With independent samples the error of a
    mean is ``N^-1/2`` if they are drawn from (or weighted to) Haar measure; a maximum also grows with N. A mean over
    space is an integral over a fixed frame, which h multiplies by ``|det h|``: under groups that change areas only the
    maximum over space is invariant.

    Args:
        reduce: ``max``, ``mean``, or ``max_mean``: the maximum over space, then the mean over samples (``all`` only).
        dims: ``group``: over N. ``all``: over N, H and W.
    """

    def __init__(
        self, reduce: Literal['max', 'mean', 'max_mean'] = 'max', dims: Literal['group', 'all'] = 'all'
    ) -> None:
        super().__init__()
        if reduce not in ('max', 'mean', 'max_mean') or dims not in ('group', 'all'):
            raise ValueError(
                f"reduce must be 'max', 'mean' or 'max_mean' and dims 'group' or 'all', got {reduce!r} and {dims!r}"
            )
        if reduce == 'max_mean' and dims == 'group':
            raise ValueError("reduce='max_mean' needs dims='all': with dims='group' use reduce='mean'")
        self.reduce, self.dims = reduce, dims

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return f'reduce={self.reduce!r}, dims={self.dims!r}'

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, N, H, W)`` -> ``(B, C, H, W)`` or, with ``dims='all'``, ``(B, C)``."""
        if x.dim() != 5:
            raise ValueError(f'GroupPool takes a map on the group, (B, C, N, H, W), got shape {tuple(x.shape)}')
        if self.reduce == 'max_mean':
            return x.amax((3, 4)).mean(2)
        axes = (2,) if self.dims == 'group' else (2, 3, 4)
        return x.amax(axes) if self.reduce == 'max' else x.mean(axes)

    def respond(self, x: Tensor, samples: GroupSamples) -> Tensor:
        """Apply the layer with input and output on the same samples."""
        return self(x)
