"""A linear layer whose three products are integer products."""

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
        bias: Whether there is a bias; it stays in floating point.
        recipe: Settings of the quantization; None: the defaults of :class:`IntegerRecipe`.
        seed: Seed of the noise; None: torch's initial seed.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        recipe: IntegerRecipe | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self._set_up(recipe, seed)

    def forward(self, x: Tensor) -> Tensor:
        """(..., Ci) -> (..., Co), in the dtype of ``x``."""
        if not self._is_integer or x.numel() == 0:
            return super().forward(x)
        rows = x.reshape(-1, x.shape[-1])
        y = IntegerProduct.apply(rows, self.weight, self.bias, _DENSE, self.recipe, self.noise, self.stats)
        return y.view(*x.shape[:-1], -1)
