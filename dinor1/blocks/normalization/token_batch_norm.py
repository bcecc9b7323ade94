"""Batch normalisation over tokens, the baseline for UN and PN."""

from torch import Tensor, nn

from .base import check_channels, check_numbers


class TokenBatchNorm(nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` with channels on the last axis.

    Statistics are over all other axes: images and their tokens, including padding.

    Args:
        num_features: Width of the last axis.
        eps: Added to the variance.
        momentum: Weight of a new batch in the running statistics; None: their plain mean, as in torch.
        affine: Whether there are ``weight`` and ``bias``.

    Raises:
        ValueError: a number is out of range; in ``forward``, the input has fewer than two axes, or its last axis is not
            ``num_features``.
    """

    _abbr_ = 'tbn'

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True) -> None:
        check_numbers(self, num_features=num_features, eps=eps)
        if momentum is not None:
            check_numbers(self, momentum=momentum)
        super().__init__(num_features, eps, momentum, affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, (..., num_features); the result has its shape and dtype."""
        check_channels(self, x, -1, min_dim=2)
        if x.numel() == 0:
            return x
        return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)
