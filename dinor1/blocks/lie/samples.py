"""Group elements on which a feature map is sampled, with their inverses and weights."""

from typing import NamedTuple

import torch
from torch import Tensor


class GroupSamples(NamedTuple):
    """N elements of a matrix group.

    Attributes:
        g: ``(N, n, n)`` elements.
        g_inv: ``(N, n, n)`` their inverses, computed without inverting a matrix.
        weight: ``(N,)`` weights of a sum over the samples; ones unless drawn with ``importance=True``.
    """

    g: Tensor
    g_inv: Tensor
    weight: Tensor

    def transport(self, h: Tensor) -> 'GroupSamples':
        """Move the samples with the image: ``g -> h g``.

        A layer reads only ``g^-1 x`` and ``g^-1 g'``, which do not change: with transported samples a layer commutes
        with h, except for interpolation and the kernel's window. Haar measure is invariant, so the weights are kept.

        Args:
            h: ``(n, n)``, invertible.
        """
        h = h.to(self.g)
        return GroupSamples(h @ self.g, self.g_inv @ torch.linalg.inv(h), self.weight)

    def to(self, *args, **kwargs) -> 'GroupSamples':
        """As :meth:`torch.Tensor.to`."""
        return GroupSamples(*(tensor.to(*args, **kwargs) for tensor in self))
