"""Baseline for the equivariant network: the same architecture with ordinary convolutions."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dinor1.utils.dataclass_config import with_defaults

from .config import LayerConfig, StemConfig
from .network import make_head
from .norm import Norm


class JointLayerNorm(nn.Module):
    """Layer norm over (C, H, W) together, without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape."""
        return F.layer_norm(x, x.shape[1:])


def make_plane_norm(norm: Norm, num_channels: int) -> nn.Module:
    """The counterpart of :func:`~dinor1.blocks.lie.norm.make_norm` for images: ``layer`` or ``batch``."""
    return JointLayerNorm() if norm == 'layer' else nn.BatchNorm2d(num_channels)


class PlainConvNet(nn.Module):
    """Classifier with the architecture of :class:`~dinor1.blocks.lie.AffineEquivariantNet`.

    It is equivariant under translations only.

    Args:
        in_channels: Channels of the images.
        width: Channels of the maps; 65 gives as many parameters as the published equivariant network.
        depth: Number of widths; there are ``depth - 1`` residual blocks.
        num_classes: Length of the logits; None: no head, and :meth:`forward` returns the pooled features.
        head: Hidden width of the head.
        dropout: Dropout rate in the head.
        stem: The first convolution, a :class:`~dinor1.blocks.lie.StemConfig` or a dict of its fields.
        layers: The other convolutions and the norms, a :class:`~dinor1.blocks.lie.LayerConfig` or a dict.

    Shape:
        ``(B, in_channels, H, W)`` -> ``(B, num_classes)``.

    Raises:
        InputError: a dict has an unknown key.
        ValueError: a value is out of range.
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
        stem: StemConfig | Mapping[str, Any] | None = None,
        layers: LayerConfig | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        # Fill in the defaults.
        stem = with_defaults(stem, StemConfig(), 'stem')
        layers = with_defaults(layers, LayerConfig(), 'layers')

        def conv(c_in: int, k: int, padding: int, stride: int = 1) -> nn.Conv2d:
            padding_mode = layers.padding_mode if padding else 'zeros'
            return nn.Conv2d(c_in, width, k, stride, padding, bias=False, padding_mode=padding_mode)

        def norm() -> nn.Module:
            return make_plane_norm(layers.norm, width)

        # Stem, residual blocks, last convolution and head.
        k = layers.k
        self.stem = nn.Sequential(conv(in_channels, stem.k or k, stem.padding, stem.stride), norm())
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(width, k, k // 2), norm(), nn.GELU(), conv(width, k, k // 2), norm())
            for _ in range(depth - 1)
        )
        self.pool_norm = norm()
        self.last = nn.Sequential(conv(width, k, 0), norm())
        self.head = make_head(width, head, dropout, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, num_classes)``, or without a head the pooled features."""
        y = F.gelu(self.stem(x))
        for block in self.blocks:
            y = F.gelu(F.gelu(block(y)) + y)
        y = F.gelu(F.max_pool2d(self.pool_norm(y), 2))
        return self.head(F.gelu(self.last(y)).amax((2, 3)))
