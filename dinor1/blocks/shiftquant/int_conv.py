"""A convolution whose three products are integer products."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .im2col import Window
from .integer_product import IntegerProduct
from .layers import IntegerLayer
from .recipe import IntegerRecipe


class IntConv2d(IntegerLayer, nn.Conv2d):
    """``nn.Conv2d`` on integer grids; parameters and state dict are those of ``nn.Conv2d``.

    The result has channels last in memory (``torch.channels_last``), as the product makes it. Zeros of the padding are
    the code 0, which every grid has.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, conv_groups, bias, padding_mode: As in
            ``nn.Conv2d``; its ``groups`` is called ``conv_groups`` here.
        bits, groups, backend, act_quant: See :class:`IntegerRecipe`.
        seed: Of the noise; None: torch's initial seed.
        **options: Other fields of the recipe.

    Raises:
        InputError: a setting out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        conv_groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        bits: tuple[int, int, int] = (4, 4, 4),
        groups: int | str | None = None,
        backend: str = 'sim',
        act_quant: str = 'tensor',
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, conv_groups, bias, padding_mode
        )
        self._set_up(IntegerRecipe(bits, groups, backend, act_quant, **options), seed)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Ci, H, W) or (Ci, H, W) -> the same with Co channels, in the dtype of ``x``."""
        if not self._is_integer or x.numel() == 0:
            return super().forward(x)
        if x.dim() == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        padding = tuple(self._reversed_padding_repeated_twice)
        if self.padding_mode != 'zeros':
            x, padding = F.pad(x, padding, mode=self.padding_mode), (0, 0, 0, 0)
        window = Window(self.kernel_size, self.stride, padding, self.dilation, self.groups)
        height, width = window.output_size(*x.shape[2:])
        if height < 1 or width < 1:
            return super().forward(x)  # torch's own message says what does not fit
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        y = IntegerProduct.apply(x.permute(0, 2, 3, 1), weight, self.bias, window, self.recipe, self.noise, self.stats)
        return y.view(x.shape[0], height, width, -1).permute(0, 3, 1, 2)
