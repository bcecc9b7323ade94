"""Continuous kernels: functions from a point of the group to a matrix of channels, and the window of points.

A kernel does not depend on a grid, so that a layer can read it at ``g^-1 x`` for any g. There are two kinds:

- :class:`SirenKernel`, the published one: a network with sines (Sitzmann et al., *Implicit Neural Representations with
  Periodic Activation Functions*, arXiv 2006.09661), with the initial values of the public code of arXiv 2310.11366.
- :class:`SplineKernel`: linear in its parameters, values at the knots of a B-spline on the plane (Bekkers,
  *B-Spline CNNs on Lie Groups*, arXiv 1909.12057) times low-order Gaussian features on H. It trains as fast as an
  ordinary convolution; a network needs many times the steps.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

Kernel = Literal['siren', 'spline']
KERNELS: tuple[Kernel, ...] = ('siren', 'spline')


def window(k: int, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    """Points of a k x k window, ``(k, k, 2)`` as (x, y), y down: ``(2 j + 1) / k - 1`` along both axes.

    Raises:
        ValueError: k is not positive.
    """
    if k < 1:
        raise ValueError(f'the kernel size must be at least 1, got {k}')
    axis = (2 * torch.arange(k, dtype=dtype or torch.get_default_dtype(), device=device) + 1) / k - 1
    return torch.stack(torch.meshgrid(axis, axis, indexing='xy'), dim=-1)


class SirenKernel(nn.Module):
    """A kernel ``R^d_in -> R^(c_out x c_in)``: sine layers ``sin(w0 (W z + b))``, then a linear one.

    Args:
        d_in: Number of coordinates of a point.
        c_in: Input channels.
        c_out: Output channels.
        k: Window size, for the scale of the last layer's initial values.
        hidden: Width of the sine layers.
        n_hidden: Sine layers after the first.
        w0: Frequency, which sets the kernel's bandwidth. Above about ``k`` the window under-samples the kernel.
        gain: Initial values of the hidden layers are in ``+- sqrt(gain / hidden) / w0``.

    Shape:
        ``(..., d_in)`` -> ``(..., c_out * c_in)``, with the output channel as the slower axis.
    """

    def __init__(
        self,
        d_in: int,
        c_in: int,
        c_out: int,
        k: int,
        hidden: int = 60,
        n_hidden: int = 2,
        w0: float = 10.0,
        gain: float = 6.0,
    ) -> None:
        super().__init__()
        self.d_in, self.c_in, self.c_out, self.k = d_in, c_in, c_out, k
        self.w0, self.gain = w0, gain
        # Build the sine layers, and a linear layer with an output for each pair of channels.
        sizes = [d_in] + [hidden] * (n_hidden + 1)
        self.sines = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        self.final = nn.Linear(hidden, c_out * c_in)
        self.reset_parameters()

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return f'd_in={self.d_in}, c_in={self.c_in}, c_out={self.c_out}, w0={self.w0}'

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw initial values with the bounds of the published code."""
        # The first layer reads coordinates.
        first, *others = self.sines
        first.reset_parameters()
        first.weight.uniform_(-1 / self.d_in, 1 / self.d_in)
        # The other sine layers compensate the frequency w0.
        bound = math.sqrt(self.gain / self.final.in_features)
        for layer in others:
            layer.weight.uniform_(-bound / self.w0, bound / self.w0)
            layer.bias.zero_()
        # A convolution sums over k^2 points and c_in channels, so the last layer is smaller.
        last = bound / math.sqrt(self.c_in * self.k**2)
        self.final.weight.uniform_(-last, last)
        self.final.bias.zero_()

    def forward(self, z: Tensor) -> Tensor:
        """``(..., d_in)`` -> ``(..., c_out * c_in)``."""
        for layer in self.sines:
            z = torch.sin(self.w0 * layer(z))
        return self.final(z)


class SplineKernel(nn.Module):
    """A kernel ``K(x, xi) = sum_p sum_m w[p, m] B(x - p) psi_m(xi)``, linear in w.

    ``B`` is the product of cubic B-splines on ``knots x knots`` points p that cover [-1, 1]^2 like the points of a
    window; their number sets the kernel's bandwidth. ``psi`` are ``exp(-|xi|^2 / (2 width^2))`` and its products with
    each ``xi_j / width``: value and gradient around the identity of H, where kernels have most of their weight.

    Args:
        d_in: Number of coordinates of a point, 2 for x and the others for H; the latter are 0 at the identity.
        c_in: Input channels.
        c_out: Output channels.
        knots: Knots per axis.
        width: Width of the Gaussian on H.

    Shape:
        ``(..., d_in)`` -> ``(..., c_out * c_in)``, with the output channel as the slower axis.
    """

    def __init__(self, d_in: int, c_in: int, c_out: int, knots: int = 3, width: float = 0.5) -> None:
        super().__init__()
        if knots < 1 or not width > 0:
            raise ValueError(f'knots must be at least 1 and width positive, got {knots} and {width}')
        self.d_in, self.c_in, self.c_out, self.knots, self.width = d_in, c_in, c_out, knots, width
        # The functions on H are the Gaussian, and its product with each coordinate.
        self.num_group = 1 + (d_in - 2)
        self.weight = nn.Parameter(torch.empty(c_out * c_in, knots**2 * self.num_group))
        self.reset_parameters()

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return f'd_in={self.d_in}, c_in={self.c_in}, c_out={self.c_out}, knots={self.knots}, width={self.width}'

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw initial values such that output and input have the same scale, as in an ordinary convolution."""
        self.weight.normal_(std=1 / math.sqrt(self.c_in * self.knots**2))

    def forward(self, z: Tensor) -> Tensor:
        """``(..., d_in)`` -> ``(..., c_out * c_in)``."""
        points = window(self.knots, z.dtype, z.device)[0, :, 0]
        # Spline values on the plane, at distances in units of the knot spacing.
        along = (z[..., :2, None] - points) * (self.knots / 2)
        x, y = cubic_spline(along).unbind(-2)
        features = (y[..., :, None] * x[..., None, :]).flatten(-2)
        if self.num_group > 1:
            # Multiply with the Gaussian features on H.
            offset = z[..., 2:] / self.width
            bell = (-offset.square().sum(-1, keepdim=True) / 2).exp()
            group = torch.cat([bell, bell * offset], dim=-1)
            features = (features[..., :, None] * group[..., None, :]).flatten(-2)
        return features @ self.weight.mT


def cubic_spline(t: Tensor) -> Tensor:
    """Cardinal cubic B-spline: support (-2, 2), integral 1, continuous second derivative."""
    t = t.abs()
    inner = 2 / 3 - t.square() * (1 - t / 2)
    outer = (2 - t).clamp(min=0).pow(3) / 6
    return torch.where(t < 1, inner, outer)
