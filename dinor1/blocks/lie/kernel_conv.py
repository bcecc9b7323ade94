"""Convolutions on affine groups ``R^2 x| H``: lifting, group convolution, projection.

Maps on the group are tensors ``(B, C, N, H, W)`` together with the N elements of H on which they are sampled; the
elements are passed explicitly. Kernels are continuous functions on the group, read at these elements: there is no loop
over samples, and a layer is one 2-D convolution. Kernel networks are computed in float32 or better under autocast too.
The integrals in the docstrings of the layers follow Mironenco and Forre, arXiv 2310.11366.

Every layer commutes with the action of G on images and maps. On a pixel grid with N samples it does so

- exactly (to rounding) under quarter turns with transported samples,
- with the errors of interpolation and of the window, which cuts off part of the kernel, with transported samples,
- with Monte Carlo noise for independent samples.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dinor1.utils.dataclass_config import with_defaults

from .checks import check_square, values_are_readable
from .config import PADDING_MODES, KernelConfig, PaddingMode
from .equivariance import EquivariantModule
from .kernels import SirenKernel, SplineKernel, window
from .masks import window_mask
from .matrix_group import MatrixGroup


class KernelConv(EquivariantModule):
    """Base class of the convolutions: a continuous kernel on a window, and its mask.

    Args:
        group: H, of 2 x 2 matrices.
        c_in: Channels of the input.
        c_out: Channels of the output.
        k: Window size.
        padding: Pixels added on each side. Default: ``k // 2``, and 0 in a lifting, as published.
        stride: Stride of the window; above 1 the law holds for translations by multiples of the stride.
        bias: Whether a constant is added per channel.
        padding_mode: ``zeros``, or ``replicate``, which extends a constant background.
        kernel: A :class:`~dinor1.blocks.lie.KernelConfig`, or a dict of its fields.
        **kernel_fields: Fields of :class:`~dinor1.blocks.lie.KernelConfig` by name, such as ``w0=3.0``; they take
            precedence over ``kernel``.

    Attributes:
        mixes: Whether the kernel also depends on elements of H of the input and the output.
        keeps_size: Whether the default padding keeps the size of the map.

    Raises:
        InputError: a keyword is not a field of ``KernelConfig``.
        ValueError: an argument is out of range.
    """

    mixes = False
    keeps_size = True

    def __init__(
        self,
        group: MatrixGroup,
        c_in: int,
        c_out: int,
        k: int = 5,
        padding: int | None = None,
        stride: int = 1,
        bias: bool = False,
        *,
        padding_mode: PaddingMode = 'zeros',
        kernel: KernelConfig | Mapping[str, Any] | None = None,
        **kernel_fields: Any,
    ) -> None:
        super().__init__()
        # Fill in the defaults, and check the arguments.
        if padding is None:
            padding = k // 2 if self.keeps_size else 0
        kernel = with_defaults(kernel, KernelConfig(), 'kernel')
        kernel = with_defaults(kernel_fields, kernel, type(self).__name__)
        if group.n != 2:
            raise ValueError(f'images need a group of 2 x 2 matrices, got {group}')
        if min(c_in, c_out, k, stride) < 1 or padding < 0:
            raise ValueError(
                'c_in, c_out, k and stride must be at least 1 and padding at least 0; '
                f'got {c_in}, {c_out}, {k}, {stride} and {padding}'
            )
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be 'zeros' or 'replicate', got {padding_mode!r}")
        if kernel.mask == 'auto':
            kernel = replace(kernel, mask='hard' if group.unimodular_on_R2 else 'smooth')
        # Store the settings, and build the kernel.
        self.group, self.in_channels, self.out_channels = group, c_in, c_out
        self.k, self.padding, self.stride, self.padding_mode = k, padding, stride, padding_mode
        self.mask, self.support_radius = kernel.mask, kernel.support_radius
        self.group_width = kernel.group_width if self.mixes else None
        # The kernel reads two planar coordinates and, if it mixes the group, those of the Lie algebra.
        d_in = 2 + group.dim if self.mixes else 2
        self.net = (
            SirenKernel(d_in, c_in, c_out, k, kernel.hidden, w0=kernel.w0)
            if kernel.kind == 'siren'
            else SplineKernel(d_in, c_in, c_out, kernel.knots)
        )
        self.bias = torch.nn.Parameter(torch.zeros(c_out)) if bias else None

    def extra_repr(self) -> str:
        """Group, channels, window and mask."""
        return (
            f'{self.group}, {self.in_channels}, {self.out_channels}, k={self.k}, padding={self.padding}, '
            f'stride={self.stride}, mask={self.mask!r}, support_radius={self.support_radius}'
        )

    def _spatial(self, g_inv: Tensor) -> Tensor:
        """Map the window: points ``g^-1 x``, ``(N, 2, 2)`` -> ``(N, k, k, 2)``."""
        return torch.einsum('nij,yxj->nyxi', g_inv, window(self.k, g_inv.dtype, g_inv.device))

    def _read_kernel(self, spatial: Tensor, xi: Tensor | None) -> Tensor:
        """Read the masked kernel at points ``(..., 2)`` and coordinates ``(..., d)``: ``(..., c_out, c_in)``."""
        # Join the coordinates on the plane and on H.
        offsets = None
        points = spatial
        if xi is not None:
            offsets = self.group.offsets(xi)
            lead = torch.broadcast_shapes(spatial.shape[:-1], xi.shape[:-1])
            # A spline is centred at the identity; a network learns the centre, as published.
            coords = xi if isinstance(self.net, SirenKernel) else offsets
            points = torch.cat([spatial.expand(*lead, 2), coords.expand(*lead, coords.shape[-1])], dim=-1)
        # Samples are always float32: a float64 check would reject their rounding, and half precision is too coarse.
        values = self.net(points.to(next(self.net.parameters()).dtype))
        # Cut the kernel off towards the edge of the window.
        mask = window_mask(self.mask, spatial, offsets, self.support_radius)
        if mask is not None:
            values = values * mask.unsqueeze(-1)
        return values.unflatten(-1, (self.out_channels, self.in_channels))

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(x.dtype)
        if self.padding and self.padding_mode == 'replicate':
            x = F.pad(x, (self.padding,) * 4, mode='replicate')
            return F.conv2d(x, weight, stride=self.stride)
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)

    def _check_map(self, x: Tensor, num_samples: int | None) -> None:
        layout = '(B, C, H, W)' if num_samples is None else '(B, C, N, H, W)'
        if x.dim() != (4 if num_samples is None else 5):
            raise ValueError(f'{type(self).__name__} takes {layout}, got shape {tuple(x.shape)}')
        if x.shape[1] != self.in_channels:
            raise ValueError(f'{type(self).__name__} has {self.in_channels} input channels, got {x.shape[1]}')
        if num_samples is not None and x.shape[2] != num_samples:
            raise ValueError(f'the map has {x.shape[2]} samples, but {num_samples} elements were given')

    def _check_samples(self, **samples: Tensor) -> None:
        for name, matrices in samples.items():
            check_square(matrices, 2, name)
            if matrices.dim() != 3 or not len(matrices):
                raise ValueError(f'{name} must be (N, 2, 2) with N at least 1, got {tuple(matrices.shape)}')
            if values_are_readable(matrices):
                self.group.validate(matrices)
