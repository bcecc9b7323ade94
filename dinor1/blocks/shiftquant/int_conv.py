"""A convolution whose three products are integer products."""

import torch.nn.functional as F
from torch import Tensor, nn

from .im2col import Im2ColConv
from .integer_product import IntegerProduct
from .layers import IntegerLayer
from .recipe import IntegerRecipe


class IntConv2d(IntegerLayer, nn.Conv2d):
    """``nn.Conv2d`` on integer grids; parameters and state dict are those of ``nn.Conv2d``.

    The result has channels last in memory (``torch.channels_last``), as the product returns it. Zeros of the padding
    have the code 0, which is in every grid.

    Args:
        in_channels: Ci.
        out_channels: Co.
        kernel_size: As in ``nn.Conv2d``.
        stride: As in ``nn.Conv2d``.
        padding: As in ``nn.Conv2d``.
        dilation: As in ``nn.Conv2d``.
        groups: Groups of the convolution, not of the gradient's channels.
        bias: Whether there is a bias; it stays in floating point.
        padding_mode: As in ``nn.Conv2d``.
        recipe: Settings of the quantization; None: the defaults of :class:`IntegerRecipe`.
        seed: Seed of the noise; None: torch's initial seed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        recipe: IntegerRecipe | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        self._set_up(recipe, seed)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, Ci, H, W) or (Ci, H, W) to Co channels, in the dtype of ``x``."""
        if not self._is_integer or x.numel() == 0:
            return super().forward(x)
        if x.dim() == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        # Determine the geometry; other paddings than zeros are applied first.
        padding = tuple(self._reversed_padding_repeated_twice)
        if self.padding_mode != 'zeros':
            x, padding = F.pad(x, padding, mode=self.padding_mode), (0, 0, 0, 0)
        geometry = Im2ColConv(self.kernel_size, self.stride, padding, self.dilation, self.groups)
        height, width = geometry.output_size(*x.shape[2:])
        if height < 1 or width < 1:
            return super().forward(x)  # raises torch's own error message
        # Multiply with channels last.
        x, weight = x.permute(0, 2, 3, 1), self.weight.permute(0, 2, 3, 1).flatten(1)
        y = IntegerProduct.apply(x, weight, self.bias, geometry, self.recipe, self.noise, self.stats)
        return y.view(x.shape[0], height, width, -1).permute(0, 3, 1, 2)
