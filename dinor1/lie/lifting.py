"""Lifting: from images to maps on the group."""

import torch
from torch import Tensor

from .kernel_conv import KernelConv
from .kernels import Kernel
from .masks import Mask
from .matrix_group import MatrixGroup
from .samples import GroupSamples
from .sym2 import det2


class LiftingConv2d(KernelConv):
    """From the plane to the group: ``(k * f)(x, g) = |det g|^-1 int f(x') k(g^-1 (x' - x)) dx'``.

    Law: ``Phi(L_h f)(x, g) = Phi(f)(h^-1 x, h^-1 g)`` for every h of the group.

    Args:
        group: H, of 2 x 2 matrices.
        c_in: Channels of the image.
        c_out: Channels of the map.
        k: Window size.
        padding: Pixels added around; the published network adds none here.
        stride: Of the window; above 1 the law holds for translations by multiples of it.
        bias: Whether a constant is added per channel.
        hidden: Width of the kernel network.
        w0: Its frequency.
        mask: See :func:`~dinor1.lie.window_mask`; ``auto``, the published choice, is ``hard`` for groups of
            determinant 1 and else ``smooth``. ``bump`` keeps the law best.
        support_radius: Of the mask, in half windows.
        padding_mode: ``zeros``, or ``replicate``, which continues a constant background.
        kernel: ``siren``, as published, or ``spline``, see :class:`~dinor1.lie.SplineKernel`.
        knots: Of the spline; ``hidden`` and ``w0`` are the network's.
    """

    on_group = False

    def __init__(
        self,
        group: MatrixGroup,
        c_in: int,
        c_out: int,
        k: int = 5,
        padding: int = 0,
        stride: int = 1,
        bias: bool = False,
        hidden: int = 60,
        w0: float = 10.0,
        mask: Mask | None = 'auto',
        support_radius: float = 1.0,
        padding_mode: str = 'zeros',
        kernel: Kernel = 'siren',
        knots: int = 3,
    ) -> None:
        super().__init__(
            group,
            2,
            c_in,
            c_out,
            k,
            padding,
            stride,
            bias,
            hidden,
            w0,
            mask,
            support_radius,
            padding_mode,
            kernel,
            knots,
        )

    def kernel(self, g_inv: Tensor) -> Tensor:
        """Masked kernel with its factor ``|det g^-1|``: ``(N, 2, 2)`` -> ``(c_out, N, c_in, k, k)``."""
        with torch.autocast(g_inv.device.type, enabled=False):
            kernel = self._read_kernel(self._spatial(g_inv), None)
            if not self.group.unimodular_on_R2:
                kernel = kernel * det2(g_inv).abs()[:, None, None, None, None]
            return kernel.permute(3, 0, 4, 1, 2)

    def forward(self, x: Tensor, g_inv: Tensor) -> Tensor:
        """Lift images.

        Args:
            x: ``(B, c_in, H, W)``.
            g_inv: ``(N, 2, 2)`` inverses of the elements to lift to.

        Returns:
            ``(B, c_out, N, H', W')``.

        Raises:
            TypeError: matrices are not floating point.
            ValueError: shapes do not fit, or a matrix is not in the group (values are read on CPU only).
        """
        self._check_map(x, None)
        self._check_samples(g_inv=g_inv)
        out = self._convolve(x, self.kernel(g_inv).flatten(0, 1)).unflatten(1, (self.out_channels, len(g_inv)))
        return out if self.bias is None else out + self.bias[:, None, None, None]

    def respond(self, x: Tensor, samples: GroupSamples) -> Tensor:
        return self(x, samples.g_inv)
