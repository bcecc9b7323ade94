"""Root-mean-square normalisation and its compressed form.

RMSNorm: B. Zhang and R. Sennrich, arXiv 1910.07467, Eq. (4). CRMSNorm: Z. Jiang, J. Gu, H. Zhu and D. Z. Pan,
"Pre-RMSNorm and Pre-CRMSNorm Transformers", arXiv 2305.14858, section 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinor1.utils.precision import compute_dtype, full_precision

from .base import check_channels, check_numbers


class RMSNorm(nn.Module):
    """``y = weight * x / sqrt(mean_c(x^2) + eps) + bias`` over the last axis, by :func:`torch.nn.functional.rms_norm`.

    On an input with zero mean over channels this equals LayerNorm. Compared with :class:`torch.nn.RMSNorm` it has a
    bias (which a converted LayerNorm needs), statistics in float32 for any dtype of the weight, and output in the
    input's.

    Args:
        num_features: Width of the last axis.
        eps: Added to the mean square.
        affine: Whether there is a ``weight``, (num_features,), initially 1.
        bias: Whether there is also a ``bias``, (num_features,), initially 0; it needs ``affine``.

    Raises:
        ValueError: ``bias`` without ``affine``, or a number is out of range; in ``forward``, the input's last axis is
            not ``num_features``.
    """

    _abbr_ = 'rms'

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = True, bias: bool = False) -> None:
        super().__init__()
        check_numbers(self, num_features=num_features, eps=eps)
        if bias and not affine:
            raise ValueError('RMSNorm: bias=True needs affine=True')
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, (..., num_features); the result has its shape and dtype."""
        check_channels(self, x, -1)
        weight, bias = self.weight, self.bias
        # If all dtypes agree, the kernel itself reads half precision and sums in float32: no copy is needed.
        dtype = x.dtype if bias is None and (weight is None or weight.dtype == x.dtype) else compute_dtype(x)
        with full_precision(x.device):
            weight = None if weight is None else weight.to(dtype)
            y = F.rms_norm(x.to(dtype), (self.num_features,), weight, self.eps)
            if bias is not None:
                y = y + bias.to(dtype)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return f'{self.num_features}, eps={self.eps}, affine={self.weight is not None}, bias={self.bias is not None}'


class CRMSNorm(nn.Module):
    """RMSNorm of a zero-mean vector of width ``d``, whose first ``d - 1`` entries are stored.

    The missing entry is ``-S`` with ``S = sum(x)``, so ``y = x / sqrt((sum(x^2) + S^2) / d + eps)``. There is no affine
    part, since the last channel's scale could not be applied; fold it into the layer that reads the output.

    Args:
        num_features: Stored width, ``d - 1``.
        eps: Added to the mean square.

    Raises:
        ValueError: a number is out of range; in ``forward``, the input's last axis is not ``num_features``.
    """

    _abbr_ = 'crms'

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        check_numbers(self, num_features=num_features, eps=eps)
        self.num_features = num_features
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, (..., num_features); the result has its shape and dtype."""
        check_channels(self, x, -1)
        with full_precision(x.device):
            stored = x.to(compute_dtype(x))
            square_sum = stored.square().sum(-1, keepdim=True) + stored.sum(-1, keepdim=True).square()
            y = stored * torch.rsqrt(square_sum / (self.num_features + 1) + self.eps)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return f'{self.num_features}, eps={self.eps}'
