"""Lifting: from images to maps on the group."""

from torch import Tensor

from dinor1.utils.precision import full_precision

from .kernel_conv import KernelConv
from .samples import GroupSamples
from .sym2 import det2


class LiftingConv2d(KernelConv):
    """From the plane to the group: ``(k * f)(x, g) = |det g|^-1 int f(x') k(g^-1 (x' - x)) dx'``.

    Law: ``Phi(L_h f)(x, g) = Phi(f)(h^-1 x, h^-1 g)`` for every h of the group.

    Arguments are those of :class:`~dinor1.blocks.lie.kernel_conv.KernelConv`.
    """

    on_group = False
    keeps_size = False

    def kernel(self, g_inv: Tensor) -> Tensor:
        """Read the masked kernel with its factor ``|det g^-1|``: ``(N, 2, 2)`` -> ``(c_out, N, c_in, k, k)``."""
        with full_precision(g_inv.device):
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
        """Apply the layer with input and output on the same samples."""
        return self(x, samples.g_inv)
