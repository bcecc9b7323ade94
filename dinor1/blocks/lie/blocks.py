"""The residual block of group convolutions, and what its parts are made from."""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .equivariance import EquivariantModule
from .group_conv import GroupConv2d
from .matrix_group import MatrixGroup
from .norm import GroupBatchNorm, GroupLayerNorm
from .planar_conv import PlanarConv2d
from .samples import GroupSamples

Norm = Literal['layer', 'batch']


def make_norm(norm: Norm, num_channels: int) -> nn.Module:
    """``layer``, the published choice, or ``batch``.

    Raises:
        ValueError: another name.
    """
    if norm == 'layer':
        return GroupLayerNorm()
    if norm == 'batch':
        return GroupBatchNorm(num_channels)
    raise ValueError(f"norm must be 'layer' or 'batch', got {norm!r}")


def convolve(
    layer: GroupConv2d | PlanarConv2d, x: Tensor, source: GroupSamples, target: GroupSamples, importance: bool
) -> Tensor:
    """A map on ``source`` to one on ``target``; a layer that mixes no samples has both on ``target``."""
    if isinstance(layer, PlanarConv2d):
        return layer(x, target.g_inv)
    return layer(x, source.g, target.g_inv, source.weight if importance else None)


class GroupResBlock(EquivariantModule):
    """``gelu(conv_norm_gelu(conv_norm_gelu(x)) + shortcut(x))`` on one set of samples.

    Input and output live on the same samples, without which the sum of the two would mean nothing. The shortcut is x
    itself, or where the channels change, a group convolution at single points with a kernel network of half the width.

    Law: that of its convolutions, for both of them together.

    Args:
        group: H.
        c_in: Channels of the input.
        c_out: Channels of the output.
        k: Window size, odd.
        norm: ``layer`` or ``batch``.
        hidden: Width of the kernel networks.
        importance: Sum with the samples' weights.
        mix: Whether samples mix, by :class:`~dinor1.blocks.lie.GroupConv2d` as published, or each goes its own way through
            :class:`~dinor1.blocks.lie.PlanarConv2d`.
        **conv: Further arguments of :class:`~dinor1.blocks.lie.GroupConv2d`.
    """

    def __init__(
        self,
        group: MatrixGroup,
        c_in: int,
        c_out: int,
        k: int = 5,
        norm: Norm = 'layer',
        hidden: int = 60,
        importance: bool = False,
        mix: bool = True,
        **conv: Any,
    ) -> None:
        super().__init__()
        if k % 2 == 0:
            raise ValueError(f'a residual block needs an odd window, got k={k}')
        self.group, self.in_channels, self.importance = group, c_in, importance
        kind = GroupConv2d if mix else PlanarConv2d
        self.conv1 = kind(group, c_in, c_out, k, hidden=hidden, **conv)
        self.norm1 = make_norm(norm, c_out)
        self.conv2 = kind(group, c_out, c_out, k, hidden=hidden, **conv)
        self.norm2 = make_norm(norm, c_out)
        self.shortcut = None if c_in == c_out else kind(group, c_in, c_out, 1, hidden=hidden // 2, **conv)

    def forward(self, x: Tensor, samples: GroupSamples) -> Tensor:
        """``(B, c_in, N, H, W)`` on ``samples`` -> ``(B, c_out, N, H, W)`` on the same."""
        y = F.gelu(self.norm1(convolve(self.conv1, x, samples, samples, self.importance)))
        y = F.gelu(self.norm2(convolve(self.conv2, y, samples, samples, self.importance)))
        if self.shortcut is not None:
            x = convolve(self.shortcut, x, samples, samples, self.importance)
        return F.gelu(y + x)

    def respond(self, x: Tensor, samples: GroupSamples) -> Tensor:
        return self(x, samples)
