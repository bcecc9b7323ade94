"""The residual block of group convolutions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from dinor1.utils.dataclass_config import with_defaults

from .config import KernelConfig, LayerConfig
from .equivariance import EquivariantModule
from .group_conv import GroupConv2d
from .matrix_group import MatrixGroup
from .norm import make_norm
from .planar_conv import PlanarConv2d
from .samples import GroupSamples


def convolve(
    layer: GroupConv2d | PlanarConv2d, x: Tensor, source: GroupSamples, target: GroupSamples, importance: bool
) -> Tensor:
    """Apply a layer to a map on ``source``, giving a map on ``target``; layers without mixing use only ``target``."""
    if isinstance(layer, PlanarConv2d):
        return layer(x, target.g_inv)
    return layer(x, source.g, target.g_inv, source.weight if importance else None)


class GroupResBlock(EquivariantModule):
    """``gelu(conv_norm_gelu(conv_norm_gelu(x)) + shortcut(x))`` on one set of samples.

    Input and output are on the same samples, without which their sum would be meaningless. The shortcut is x itself, or
    if the number of channels changes, a group convolution at single points with a kernel network of half the width.

    Law: that of its two convolutions together.

    Args:
        group: H.
        c_in: Channels of the input.
        c_out: Channels of the output.
        layers: Window size, norm and padding of both convolutions.
        kernel: Their kernels.
        importance: Use the samples' weights in sums over samples.
        mix: True: mix samples with :class:`~dinor1.blocks.lie.GroupConv2d`, as published. False: convolve each sample
            separately with :class:`~dinor1.blocks.lie.PlanarConv2d`.
    """

    def __init__(
        self,
        group: MatrixGroup,
        c_in: int,
        c_out: int,
        layers: LayerConfig | Mapping[str, Any] | None = None,
        kernel: KernelConfig | Mapping[str, Any] | None = None,
        *,
        importance: bool = False,
        mix: bool = True,
    ) -> None:
        super().__init__()
        # Check the settings and fill in the defaults.
        layers = with_defaults(layers, LayerConfig(), 'layers')
        kernel = with_defaults(kernel, KernelConfig(), 'kernel')
        self.group, self.in_channels, self.importance = group, c_in, importance
        kind = GroupConv2d if mix else PlanarConv2d
        options: dict[str, Any] = dict(padding_mode=layers.padding_mode, kernel=kernel)
        # Two convolutions with norms, and a shortcut if the number of channels changes.
        self.conv1 = kind(group, c_in, c_out, layers.k, **options)
        self.norm1 = make_norm(layers.norm, c_out)
        self.conv2 = kind(group, c_out, c_out, layers.k, **options)
        self.norm2 = make_norm(layers.norm, c_out)
        self.shortcut = None
        if c_in != c_out:
            options['kernel'] = replace(kernel, hidden=kernel.hidden // 2)
            self.shortcut = kind(group, c_in, c_out, 1, **options)

    def forward(self, x: Tensor, samples: GroupSamples) -> Tensor:
        """``(B, c_in, N, H, W)`` on ``samples`` -> ``(B, c_out, N, H, W)`` on the same samples."""
        y = F.gelu(self.norm1(convolve(self.conv1, x, samples, samples, self.importance)))
        y = F.gelu(self.norm2(convolve(self.conv2, y, samples, samples, self.importance)))
        if self.shortcut is not None:
            x = convolve(self.shortcut, x, samples, samples, self.importance)
        return F.gelu(y + x)

    def respond(self, x: Tensor, samples: GroupSamples) -> Tensor:
        """Apply the layer with input and output on the same samples."""
        return self(x, samples)
