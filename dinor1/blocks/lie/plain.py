"""The plain convolutional network that the equivariant one is compared with: same layout, ordinary convolutions."""

import torch.nn.functional as F
from torch import Tensor, nn

from .network import make_head


class _JointLayerNorm(nn.Module):
    """Layer norm over (C, H, W) together, without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[1:])


def _norm(norm: str, num_channels: int) -> nn.Module:
    if norm not in ('layer', 'batch'):
        raise ValueError(f"norm must be 'layer' or 'batch', got {norm!r}")
    return _JointLayerNorm() if norm == 'layer' else nn.BatchNorm2d(num_channels)


class PlainConvNet(nn.Module):
    """Classifier with the layout of :class:`~dinor1.blocks.lie.AffineEquivariantNet`; equivariant under translations alone.

    Args:
        in_channels: Channels of the images.
        width: Channels of the maps; 65 gives the parameters of the published equivariant network.
        depth: Number of widths; there are ``depth - 1`` residual blocks.
        num_classes: Length of the logits; None: no head, the result is the pooled features.
        head: Hidden width of the head.
        dropout: In the head.
        k: Window size, odd.
        stem_k: Window size of the first convolution; None: k.
        stem_stride: Its stride.
        stem_padding: Its padding.
        padding_mode: ``zeros`` or ``replicate``, in the residual blocks.
        norm: ``layer`` or ``batch``.

    Shape:
        ``(B, in_channels, H, W)`` -> ``(B, num_classes)``.
    """

    def __init__(
        self,
        in_channels: int = 1,
        width: int = 65,
        depth: int = 2,
        num_classes: int | None = 10,
        head: int = 256,
        dropout: float = 0.3,
        *,
        k: int = 5,
        stem_k: int | None = None,
        stem_stride: int = 1,
        stem_padding: int = 0,
        padding_mode: str = 'zeros',
        norm: str = 'layer',
    ) -> None:
        super().__init__()
        if k % 2 == 0:
            raise ValueError(f'a residual block needs an odd window, got k={k}')

        def conv(c_in: int, size: int, padding: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(
                c_in, width, size, stride, padding, bias=False, padding_mode=padding_mode if padding else 'zeros'
            )

        self.stem = nn.Sequential(conv(in_channels, stem_k or k, stem_padding, stem_stride), _norm(norm, width))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                conv(width, k, k // 2), _norm(norm, width), nn.GELU(), conv(width, k, k // 2), _norm(norm, width)
            )
            for _ in range(depth - 1)
        )
        self.pool_norm = _norm(norm, width)
        self.last = nn.Sequential(conv(width, k, 0), _norm(norm, width))
        self.head = make_head(width, head, dropout, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.stem(x))
        for block in self.blocks:
            y = F.gelu(F.gelu(block(y)) + y)
        y = F.gelu(F.max_pool2d(self.pool_norm(y), 2))
        return self.head(F.gelu(self.last(y)).amax((2, 3)))
