"""A linear layer whose three products are integer products."""

from typing import Any

from torch import Tensor, nn

from .im2col import Dense
from .integer_product import IntegerProduct
from .layers import IntegerLayer
from .recipe import IntegerRecipe

_DENSE = Dense()


class IntLinear(IntegerLayer, nn.Linear):
    """``nn.Linear`` on integer grids; parameters and state dict are those of ``nn.Linear``.

    Args:
        in_features: Ci.
        out_features: Co.
        bias: Whether there is one; it stays in floating point.
        bits, groups, backend, act_quant: See :class:`IntegerRecipe`.
        seed: Of the noise; None: torch's initial seed.
        **options: Other fields of the recipe.

    Raises:
        InputError: a setting out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        bits: tuple[int, int, int] = (4, 4, 4),
        groups: int | str | None = None,
        backend: str = 'sim',
        act_quant: str = 'tensor',
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self._set_up(IntegerRecipe(bits, groups, backend, act_quant, **options), seed)

    def forward(self, x: Tensor) -> Tensor:
        """(..., Ci) -> (..., Co), in the dtype of ``x``."""
        if not self._is_integer or x.numel() == 0:
            return super().forward(x)
        rows = x.reshape(-1, x.shape[-1])
        y = IntegerProduct.apply(rows, self.weight, self.bias, _DENSE, self.recipe, self.noise, self.stats)
        return y.view(*x.shape[:-1], -1)
