"""Batch normalisation over tokens, the baseline that UN and PN are measured against."""

from torch import Tensor, nn

from .base import check_channels


class TokenBatchNorm(nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` with channels on the last axis.

    Statistics are over all other axes, so over images and their tokens, padding included.

    Args:
        num_features: Width of the last axis.
        eps: Added to the variance.
        momentum: Weight of a new batch in the running statistics.
        affine: Whether there are ``weight`` and ``bias``.

    Raises:
        ValueError: in ``forward``, an input of fewer than two axes or that does not end in ``num_features``.
    """

    _abbr_ = 'tbn'

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        super().__init__(num_features, eps, momentum, affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, (..., num_features); the result has its shape and dtype."""
        check_channels(self, x, -1, min_dim=2)
        if x.numel() == 0:
            return x
        return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)
