"""Projection: from maps on the group to images."""

from torch import Tensor

from dinor1.utils.precision import full_precision

from .kernel_conv import KernelConv
from .samples import GroupSamples
from .sym2 import det2


class ProjectConv2d(KernelConv):
    """From group to plane: ``(k * f)(x) = int_H int f(x', g') k(g'^-1 (x' - x)) |det g'|^-1 dx' dmu(g')``.

    Law: ``Phi(L_h f)(x) = Phi(f)(h^-1 x)``: the result is an equivariant image. Arguments are
    those of :class:`~dinor1.blocks.lie.kernel_conv.KernelConv`.
    """

    def kernel(self, g_in_inv: Tensor) -> Tensor:
        """Read the masked kernel without the determinant: ``(N, 2, 2)`` -> ``(c_out, c_in, N, k, k)``."""
        with full_precision(g_in_inv.device):
            return self._read_kernel(self._spatial(g_in_inv), None).permute(3, 4, 0, 1, 2)

    def forward(self, x: Tensor, g_in_inv: Tensor, weight: Tensor | None = None) -> Tensor:
        """Project maps on the group to images.

        Args:
            x: ``(B, c_in, N, H, W)``.
            g_in_inv: ``(N, 2, 2)`` inverses of x's samples.
            weight: ``(N,)`` weights of the sum over the samples; None: all 1.

        Returns:
            ``(B, c_out, H', W')``.

        Raises:
            TypeError: matrices are not floating point.
            ValueError: shapes do not fit, or a matrix is not in the group (values are read on CPU only).
        """
        # Check shapes and values.
        self._check_samples(g_in_inv=g_in_inv)
        self._check_map(x, len(g_in_inv))
        if weight is not None and weight.shape != (len(g_in_inv),):
            raise ValueError(f'weight must be ({len(g_in_inv)},), one per sample, got {tuple(weight.shape)}')
        # Multiply the kernel with the measure and the weights of the samples.
        kernel = self.kernel(g_in_inv)
        if not self.group.unimodular_on_R2:
            kernel = kernel * det2(g_in_inv).abs()[:, None, None]
        if weight is not None:
            kernel = kernel * weight[:, None, None]
        out = self._convolve(x.flatten(1, 2), kernel.flatten(1, 2))
        return out if self.bias is None else out + self.bias[:, None, None]

    def respond(self, x: Tensor, samples: GroupSamples) -> Tensor:
        """Apply the layer with input and output on the same samples."""
        return self(x, samples.g_inv)
