"""The projection that AdamP and SGDP share: which tensors are projected, and what is removed.

Heo et al., *AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights*, ICLR 2021,
arXiv 2006.08217, Algorithms 1 and 2. A loss that does not change with the length of a weight w has
w . gradient = 0. Steps along the gradient then lengthen w slowly, but momentum has a part along w that lengthens it
fast, and the longer w is, the less a step turns it. The projection takes that part out of the update u::

    u - w_hat (w_hat . u)   with   w_hat = w / (|w| + eps),   if   max |cos(w, gradient)| < delta / sqrt(n)

A weight is first seen as one row of n numbers per output channel (the first dimension), and every row must pass. If one
does not, the whole weight is tested as a single row. The test uses the gradient of this step, never the momentum, and
the absolute cosine: without the absolute value, as the paper's algorithm boxes are printed, every negative cosine
passes.

There are two implementations. :func:`project_` treats one tensor in the order of operations of the authors' package,
bitwise equal in float32 and float64 for contiguous tensors. :func:`which_pass` and :func:`radial_coefficients` treat
many tensors of one shape without reading a value from the device.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NONE, CHANNEL, LAYER, SKIPPED = 'none', 'channel', 'layer', 'skipped'


def has_rows(weight: Tensor) -> bool:
    """Whether a weight is tested: biases, norm weights and empty tensors are not."""
    return weight.dim() > 1 and weight.numel() > 0


def project_(weight: Tensor, grad: Tensor, update: Tensor, delta: float, eps: float) -> str:
    """Remove the radial part from one ``update`` in place, if the weight looks scale-invariant.

    Branches on values and so synchronises with the device up to twice.

    Args:
        weight: Of any shape and layout.
        grad: Gradient of this step, of the same shape.
        update: Direction of the step, of the same shape; float32 at least.
        delta: Threshold on the cosine for n = 1; 0: no row is projected.
        eps: Added to the norm, and the least norm in the cosine.

    Returns:
        Which view passed: ``'channel'``, ``'layer'``, ``'none'``, or ``'skipped'`` for a tensor without rows.
    """
    if not has_rows(weight):
        return SKIPPED
    weight, grad = weight.to(update.dtype), grad.to(update.dtype)
    # Test the channel view first; fall back to the whole tensor as one row.
    for view, num_rows in ((CHANNEL, weight.shape[0]), (LAYER, 1)):
        rows = weight.reshape(num_rows, -1)
        cosine = F.cosine_similarity(grad.reshape(num_rows, -1), rows, dim=1, eps=eps).abs()
        if cosine.max() < delta / math.sqrt(rows.shape[1]):
            # Subtract the component of the update along each row.
            per_row = (num_rows,) + (1,) * (weight.dim() - 1)
            direction = weight / (rows.norm(dim=1).view(per_row) + eps)
            radial = (direction * update).reshape(num_rows, -1).sum(dim=1).view(per_row)
            update.sub_(direction * radial)
            return view
    return NONE


class Passed(NamedTuple):
    """Test result of T tensors of C rows: which ones look scale-invariant.

    Attributes:
        channel: (T,) bool, the channel view passed.
        layer: (T,) bool, the layer view passed and the channel view did not.
        norms: (T, C + 1), length of every row of the weights, then of the whole tensor.
    """

    channel: Tensor
    layer: Tensor
    norms: Tensor

    def any(self) -> Tensor:
        """() bool, whether any tensor passed in either view."""
        return (self.channel | self.layer).any()

    def decay_ratio(self, wd_ratio: float) -> Tensor:
        """(T, 1, 1), the factor of the weight decay: ``wd_ratio`` where a view passed, 1 elsewhere."""
        passed = (self.channel | self.layer)[:, None, None].to(self.norms.dtype)
        return 1 + (wd_ratio - 1) * passed


def which_pass(weights: Tensor, grads: Tensor, delta: float, eps: float, scratch: Tensor | None = None) -> Passed:
    """Test many tensors together, without host synchronisation.

    The layer view adds up the sums of the channel view, so that each operand is read once per product.

    Args:
        weights: (T, C, n), T tensors of C rows; float32 or float64.
        grads: (T, C, n), gradients of this step.
        delta: Threshold on the cosine for n = 1; 0: no row is projected.
        eps: The least norm in the cosine.
        scratch: (T, C, n), memory for products; its content is lost.
    """
    num_rows, num_columns = weights.shape[1:]
    # Norms of the rows of weights and gradients.
    norms = torch.stack([torch.linalg.vector_norm(rows, dim=2) for rows in (weights, grads)])
    # Append the norm of the whole tensor as one more row (the layer view).
    norms = torch.cat([norms, torch.linalg.vector_norm(norms, dim=2, keepdim=True)], 2)
    # Compare each view with its threshold; the channel view takes precedence.
    cosines = _row_products(weights, grads, scratch).abs() / norms.clamp(min=eps).prod(0)
    channel = cosines[:, :-1].amax(1) < delta / math.sqrt(num_columns)
    layer = (cosines[:, -1] < delta / math.sqrt(num_rows * num_columns)) & ~channel
    return Passed(channel, layer, norms[0])


def radial_coefficients(
    passed: Passed, weights: Tensor, updates: Tensor, eps: float, scratch: Tensor | None = None
) -> Tensor:
    """(T, C, 1); subtract ``coefficients * weights`` from the updates. 0 where no view passed.

    Args:
        passed: Result of the test.
        weights: (T, C, n), T tensors of C rows; float32 or float64.
        updates: (T, C, n), directions of the step. Not changed.
        eps: Added to the norm.
        scratch: (T, C, n), memory for products; its content is lost.
    """
    radial = _row_products(weights, updates, scratch) / (passed.norms + eps).square()
    of_layer = torch.where(passed.layer, radial[:, -1], 0.0)
    return torch.where(passed.channel[:, None], radial[:, :-1], of_layer[:, None])[..., None]


def _row_products(a: Tensor, b: Tensor, scratch: Tensor | None) -> Tensor:
    """(T, C + 1), inner products of the rows of two (T, C, n), then of the whole tensors."""
    products = torch.mul(a, b, out=scratch).sum(2)
    return torch.cat([products, products.sum(1, keepdim=True)], 1)
