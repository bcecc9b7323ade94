"""The residual block of group convolutions, and what its parts are made from."""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .equivariance import EquivariantModule
from .group_conv import GroupConv2d
from .matrix_group import MatrixGroup
from .norm import GroupBatchNorm, GroupLayerNorm
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


class GroupResBlock(EquivariantModule):
    """``gelu(conv_norm_gelu(conv_norm_gelu(x)) + shortcut(x))`` on one set of samples.

    Input and output live on the same samples, without which the sum of the two would mean nothing. The shortcut is x
    itself, or where the channels change, a group convolution at single points with a kernel network of half the width.

    Law: that of :class:`~dinor1.lie.GroupConv2d`, for both of them together.

    Args:
        group: H.
        c_in: Channels of the input.
        c_out: Channels of the output.
        k: Window size, odd.
        norm: ``layer`` or ``batch``.
        hidden: Width of the kernel networks.
        importance: Sum with the samples' weights.
        **conv: Further arguments of :class:`~dinor1.lie.GroupConv2d`.
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
        **conv: Any,
    ) -> None:
        super().__init__()
        if k % 2 == 0:
            raise ValueError(f'a residual block needs an odd window, got k={k}')
        self.group, self.in_channels, self.importance = group, c_in, importance
        self.conv1 = GroupConv2d(group, c_in, c_out, k, hidden=hidden, **conv)
        self.norm1 = make_norm(norm, c_out)
        self.conv2 = GroupConv2d(group, c_out, c_out, k, hidden=hidden, **conv)
        self.norm2 = make_norm(norm, c_out)
        self.shortcut = None if c_in == c_out else GroupConv2d(group, c_in, c_out, 1, hidden=hidden // 2, **conv)

    def forward(self, x: Tensor, samples: GroupSamples) -> Tensor:
        """``(B, c_in, N, H, W)`` on ``samples`` -> ``(B, c_out, N, H, W)`` on the same."""
        g, g_inv, weight = samples
        weight = weight if self.importance else None
        y = F.gelu(self.norm1(self.conv1(x, g, g_inv, weight)))
        y = F.gelu(self.norm2(self.conv2(y, g, g_inv, weight)))
        return F.gelu(y + (x if self.shortcut is None else self.shortcut(x, g, g_inv, weight)))

    def respond(self, x: Tensor, samples: GroupSamples) -> Tensor:
        return self(x, samples)
