"""A set of group elements that a feature map lives on, with what every layer needs of it."""

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
        """The samples moved along with the image: ``g -> h g``.

        A layer sees ``g^-1 x`` and ``g^-1 g'`` only, and both stay what they were: with transported samples a layer
        commutes with h, up to interpolation and the kernel's window. The weights stay: Haar measure is invariant.

        Args:
            h: ``(n, n)``, invertible.
        """
        h = h.to(self.g)
        return GroupSamples(h @ self.g, self.g_inv @ torch.linalg.inv(h), self.weight)

    def to(self, *args, **kwargs) -> 'GroupSamples':
        """As :meth:`torch.Tensor.to`."""
        return GroupSamples(*(tensor.to(*args, **kwargs) for tensor in self))
