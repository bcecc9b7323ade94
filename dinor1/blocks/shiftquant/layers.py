"""Base class of integer layers: recipe, noise, and conversion from a floating-point layer."""

from dataclasses import replace
from typing import Any, TypeVar

from torch import nn

from .gradient_stats import GradientStats
from .noise import NoiseSource
from .recipe import IntegerRecipe

Layer = TypeVar('Layer', bound='IntegerLayer')


class IntegerLayer(nn.Module):
    """Mix-in of layers that compute in integers if ``enabled``, and like their floating-point class otherwise.

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
        """Snapshot of the state in Python: position of the noise, statistics of gradients."""
        return self.noise.position, self.stats, None if self.stats is None else self.stats.snapshot()

    def set_host_state(self, state: tuple[Any, ...]) -> None:
        """Restore a snapshot of :meth:`host_state`."""
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
        """Make an integer layer from ``module`` with the same Parameter objects, hooks and mode.

        Args:
            module: Layer of the floating-point class.
            recipe: Settings of the quantization; None: the defaults of :class:`IntegerRecipe`.
            seed: Seed of the noise; None: torch's initial seed.
            name: Name of the layer in its model, which makes its noise different from that of other layers.
            **options: Changes of the recipe, such as ``bits=(6, 6, 6)``.

        Returns:
            The new layer. ``module`` must not be used afterwards.
        """
        new = cls.__new__(cls)
        new.__dict__ = {key: value.copy() if isinstance(value, dict) else value for key, value in vars(module).items()}
        new._set_up(replace(recipe or IntegerRecipe(), **options), seed, name)
        return new

    @property
    def _is_integer(self) -> bool:
        return self.enabled and not self.recipe.is_float

    def extra_repr(self) -> str:
        """Sizes and the main settings of the recipe."""
        recipe = self.recipe
        return f'{super().extra_repr()}, bits={recipe.bits}, groups={recipe.groups}, backend={recipe.backend!r}'
