"""What integer layers share: recipe, noise, and the conversion from a floating-point layer."""

from dataclasses import replace
from typing import Any, TypeVar

from torch import nn

from .gradient_stats import GradientStats
from .noise import NoiseSource
from .recipe import IntegerRecipe

Layer = TypeVar('Layer', bound='IntegerLayer')


class IntegerLayer(nn.Module):
    """Mix-in of layers that compute in integers while ``enabled``, and as their floating-point class otherwise.

    Attributes:
        recipe: See :class:`IntegerRecipe`.
        noise: Source of stochastic rounding; its ``position`` is not in the state dict.
        enabled: Whether the layer quantizes.
        stats: None, or counts of the quantized gradients.
    """

    def _set_up(self, recipe: IntegerRecipe | None, seed: int | None, name: str = '') -> None:
        self.recipe, self.noise, self.enabled = recipe or IntegerRecipe(), NoiseSource(seed, name), True
        self.stats: GradientStats | None = None

    def host_state(self) -> tuple[Any, ...]:
        """Snapshot of what passes move in Python: position of the noise, statistics of gradients."""
        return self.noise.position, self.stats, None if self.stats is None else self.stats.snapshot()

    def set_host_state(self, state: tuple[Any, ...]) -> None:
        """Go on from a snapshot of :meth:`host_state`."""
        self.noise.position, self.stats, counts = state
        if self.stats is not None:
            self.stats.restore(counts)

    @classmethod
    def from_float(
        cls: type[Layer],
        module: nn.Module,
        recipe: IntegerRecipe | None = None,
        seed: int | None = None,
        name: str = '',
        **options: Any,
    ) -> Layer:
        """The integer layer with everything of ``module``: the same Parameter objects, hooks and mode.

        Args:
            module: A layer of the floating-point class.
            recipe: How to quantize; None: the defaults of :class:`IntegerRecipe`.
            seed: Seed of the noise; None: torch's initial seed.
            name: Name of the layer in its model, which tells its noise from that of other layers.
            **options: Changes of the recipe, such as ``bits=(6, 6, 6)``.

        Returns:
            The new layer. ``module`` must not be used any more.
        """
        new = cls.__new__(cls)
        new.__dict__ = {key: value.copy() if isinstance(value, dict) else value for key, value in vars(module).items()}
        new._set_up(replace(recipe or IntegerRecipe(), **options), seed, name)
        return new

    @property
    def _is_integer(self) -> bool:
        return self.enabled and not self.recipe.is_float

    def extra_repr(self) -> str:
        """Sizes, then the recipe in short."""
        recipe = self.recipe
        return f'{super().extra_repr()}, bits={recipe.bits}, groups={recipe.groups}, backend={recipe.backend!r}'
