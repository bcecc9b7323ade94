"""Group convolution with a kernel that is a delta function on H: every sample is convolved separately."""

import torch.nn.functional as F
from torch import Tensor

from dinor1.utils.precision import full_precision

from .kernel_conv import KernelConv
from .samples import GroupSamples
from .sym2 import det2


class PlanarConv2d(KernelConv):
    """Convolution on the group, per sample: ``(k * f)(x, g) = |det g|^-1 int f(x', g) k(g^-1 (x' - x)) dx'``.

    Its kernel is a delta function on H, unlike that of :class:`~dinor1.blocks.lie.GroupConv2d`. There is no sum over
    samples, hence no Monte Carlo error, cost N instead of N^2, and any number of samples in tests. Only
    :class:`~dinor1.blocks.lie.GroupPool` combines samples. A network of these layers gives at g what an ordinary
    network gives for the image ``L_g^-1 f``. It is not in the published network; docs/research/lie.md measures its
    effect.

    Law: ``Phi(L_h f)(x, g) = Phi(f)(h^-1 x, h^-1 g)`` for every h of the group.

    Arguments are those of :class:`~dinor1.blocks.lie.kernel_conv.KernelConv`.
    """

    def kernel(self, g_inv: Tensor) -> Tensor:
        """Read the masked kernel with its factor ``|det g^-1|``: ``(N, 2, 2)`` -> ``(N, c_out, c_in, k, k)``."""
        with full_precision(g_inv.device):
            kernel = self._read_kernel(self._spatial(g_inv), None)
            if not self.group.unimodular_on_R2:
                kernel = kernel * det2(g_inv).abs()[:, None, None, None, None]
            return kernel.permute(0, 3, 4, 1, 2)

    def forward(self, x: Tensor, g_inv: Tensor) -> Tensor:
        """Convolve maps on the group, sample by sample.

        Args:
            x: ``(B, c_in, N, H, W)``.
            g_inv: ``(N, 2, 2)`` inverses of the samples of x and of the result.

        Returns:
            ``(B, c_out, N, H', W')``.

        Raises:
            TypeError: matrices are not floating point.
            ValueError: shapes do not fit, or a matrix is not in the group (values are read on CPU only).
        """
        self._check_samples(g_inv=g_inv)
        n_samples = len(g_inv)
        self._check_map(x, n_samples)
        # Bring the channels of a sample side by side for a grouped convolution.
        x = x.transpose(1, 2).flatten(1, 2)
        padding = self.padding
        if padding and self.padding_mode == 'replicate':
            x, padding = F.pad(x, (padding,) * 4, mode='replicate'), 0
        # Convolve each sample with its own kernel.
        kernel = self.kernel(g_inv).flatten(0, 1).to(x.dtype)
        out = F.conv2d(x, kernel, stride=self.stride, padding=padding, groups=n_samples)
        out = out.unflatten(1, (n_samples, self.out_channels)).transpose(1, 2)
        return out if self.bias is None else out + self.bias[:, None, None, None]

    def respond(self, x: Tensor, samples: GroupSamples) -> Tensor:
        """Apply the layer with input and output on the same samples."""
        return self(x, samples.g_inv)
