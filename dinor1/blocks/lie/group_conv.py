"""Group convolution: from maps on the group to maps on the group."""

from typing import Any

from torch import Tensor

from dinor1.utils.precision import full_precision

from .kernel_conv import KernelConv
from .samples import GroupSamples
from .sym2 import det2


class GroupConv2d(KernelConv):
    """Group convolution: ``(k * f)(x, g) = int_H int f(x', g') k(g^-1 (x' - x), g^-1 g') |det g'|^-1 dx' dmu(g')``.

    Law: ``Phi(L_h f) = L_h Phi(f)`` for every h of the group. The integral over H is a sum over the samples of the
    input. By default the sum has no weights, as published: it differs by a constant factor, which normalisation
    removes, and by using the density of samples instead of Haar measure. With ``weight`` from
    ``sample(importance=True)`` and ``group_width`` below ``sqrt(2 spd_var)``, it is an unbiased estimate of the
    integral with an error of ``N^-1/2``.

    Args:
        *args: As in :class:`~dinor1.blocks.lie.kernel_conv.KernelConv`.
        compat_det_axis: Apply the i-th input sample's ``|det g'|^-1`` to the i-th output sample, as the published code
            does; only for comparison. If both sets are the same, the factor is ``|det g|^-1``, another kernel times
            ``|det g^-1 g'|``, and the law holds; otherwise the output depends on the order of samples.
        **kwargs: As in :class:`~dinor1.blocks.lie.kernel_conv.KernelConv`, including ``group_width`` of
            :class:`~dinor1.blocks.lie.KernelConfig`.
    """

    mixes = True

    def __init__(self, *args: Any, compat_det_axis: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.compat_det_axis = compat_det_axis

    def kernel(self, g_in: Tensor, g_out_inv: Tensor) -> Tensor:
        """Read the masked kernel, without the determinant of the measure.

        Args:
            g_in: ``(N_in, 2, 2)`` elements of the input's samples.
            g_out_inv: ``(N_out, 2, 2)`` inverses of the output's samples.

        Returns:
            ``(c_out, N_out, c_in, N_in, k, k)``.
        """
        with full_precision(g_in.device):
            # Read the kernel at the coordinates of g^-1 g'.
            xi = self.group.coords(g_out_inv[:, None] @ g_in[None], check=False)
            kernel = self._read_kernel(self._spatial(g_out_inv)[:, None], xi[:, :, None, None])
            # Localise it on H.
            if self.group_width is not None and self.group.spd is not None:
                square = self.group.log_spd_norm(xi).square()
                kernel = kernel * (-square / (2 * self.group_width**2)).exp()[:, :, None, None, None, None]
            return kernel.permute(4, 0, 5, 1, 2, 3)

    def forward(self, x: Tensor, g_in: Tensor, g_out_inv: Tensor, weight: Tensor | None = None) -> Tensor:
        """Convolve maps on the group.

        Args:
            x: ``(B, c_in, N_in, H, W)``.
            g_in: ``(N_in, 2, 2)`` elements of x's samples.
            g_out_inv: ``(N_out, 2, 2)`` inverses of the result's samples.
            weight: ``(N_in,)`` weights of the sum over x's samples; None: all 1.

        Returns:
            ``(B, c_out, N_out, H', W')``.

        Raises:
            TypeError: matrices are not floating point.
            ValueError: shapes do not fit, or a matrix is not in the group (values are read on CPU only).
        """
        # Check shapes and values.
        self._check_samples(g_in=g_in, g_out_inv=g_out_inv)
        self._check_map(x, len(g_in))
        n_in, n_out = len(g_in), len(g_out_inv)
        if weight is not None and weight.shape != (n_in,):
            raise ValueError(f'weight must be ({n_in},), one per input sample, got {tuple(weight.shape)}')
        # Multiply the kernel with the measure and the weights of the input's samples.
        kernel = self.kernel(g_in, g_out_inv)
        if not self.group.unimodular_on_R2:
            measure = det2(g_in).abs().reciprocal()
            if self.compat_det_axis:
                if n_in != n_out:
                    raise ValueError(f'compat_det_axis needs as many output as input samples, got {n_out} and {n_in}')
                kernel = kernel * measure[:, None, None, None, None]
            else:
                kernel = kernel * measure[:, None, None]
        if weight is not None:
            kernel = kernel * weight[:, None, None]
        # Convolve with samples folded into the channels.
        kernel = kernel.reshape(self.out_channels * n_out, self.in_channels * n_in, self.k, self.k)
        out = self._convolve(x.flatten(1, 2), kernel).unflatten(1, (self.out_channels, n_out))
        return out if self.bias is None else out + self.bias[:, None, None, None]

    def respond(self, x: Tensor, samples: GroupSamples) -> Tensor:
        """Apply the layer with input and output on the same samples."""
        return self(x, samples.g, samples.g_inv)
