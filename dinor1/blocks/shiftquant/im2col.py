"""Linear layers and convolutions as matrix products (im2col), forward and for the gradient of the input.

Channels are on the last axis everywhere: a row of a convolution's matrix then consists of a few contiguous runs, and a
result (B, H, W, C) is a channels_last tensor (B, C, H, W) of torch without a copy.

The gradient of a convolution's input is itself a convolution: of the output's gradient, with zeros between its
positions if the stride is not 1, with the reversed kernel. All operands are therefore int8, and no int32 sums have to
be folded back into an image (col2im).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Dense:
    """A linear layer, whose input is already a matrix."""

    groups: ClassVar[int] = 1

    def columns(self, x: Tensor) -> Tensor:
        """Return (N, C) unchanged."""
        return x

    def adjoint_columns(self, grad: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return (N, C) unchanged."""
        return grad

    def adjoint_kernel(self, kernel: Tensor) -> Tensor:
        """Return (Co, Ci) unchanged."""
        return kernel


@dataclass(frozen=True)
class Im2ColConv:
    """A convolution as a matrix product (im2col), for tensors of any dtype.

    Attributes:
        kernel: Height and width.
        stride: Vertical and horizontal.
        padding: Zeros at left, right, top and bottom; negative numbers crop.
        dilation: Vertical and horizontal.
        groups: Groups of the convolution.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result."""
        left, right, top, bottom = self.padding
        return tuple(
            (size - self.dilation[i] * (self.kernel[i] - 1) - 1) // self.stride[i] + 1
            for i, size in enumerate((height + top + bottom, width + left + right))
        )

    def columns(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B h w, kernel height * kernel width * C)."""
        if self.kernel == self.stride == (1, 1) and not any(self.padding):
            return x.reshape(-1, x.shape[-1])
        # Pad, then view the windows and copy them into rows.
        out_height, out_width = self.output_size(*x.shape[1:3])
        padded = F.pad(x, (0, 0, *self.padding)).contiguous()
        batch, _, _, channels = padded.shape
        image, row, column, _ = padded.stride()
        steps = (row * self.stride[0], column * self.stride[1], row * self.dilation[0], column * self.dilation[1])
        windows = padded.as_strided((batch, out_height, out_width, *self.kernel, channels), (image, *steps, 1))
        return windows.reshape(batch * out_height * out_width, -1)

    def adjoint_columns(self, grad: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Columns for the convolution that computes the input's gradient.

        Args:
            grad: (B h w, C), gradient of the result.
            shape: (B, H, W, channels) of the input.

        Returns:
            (B H W, kernel height * kernel width * C).
        """
        # Spread the gradient by the stride, with zeros in between.
        batch, height, width, _ = shape
        out_height, out_width = self.output_size(height, width)
        spread = grad.view(batch, out_height, out_width, -1)
        if self.stride != (1, 1):
            sizes = [self.stride[i] * (size - 1) + 1 for i, size in enumerate((out_height, out_width))]
            between = grad.new_zeros(batch, *sizes, grad.shape[-1])
            between[:, :: self.stride[0], :: self.stride[1]] = spread
            spread = between
        # Pad so that the result has the size of the input.
        padding = []
        for axis, size, before in ((1, width, self.padding[0]), (0, height, self.padding[2])):
            reach = self.dilation[axis] * (self.kernel[axis] - 1)
            padding += [reach - before, size - spread.shape[axis + 1] + before]
        return replace(self, stride=(1, 1), padding=tuple(padding)).columns(spread)

    def adjoint_kernel(self, kernel: Tensor) -> Tensor:
        """Reverse the taps: (Co, taps * Ci) -> (taps * Co, Ci), with Co and Ci of one group."""
        taps = kernel.unflatten(1, (self.kernel[0] * self.kernel[1], -1))
        return taps.flip(1).transpose(0, 1).flatten(0, 1)
