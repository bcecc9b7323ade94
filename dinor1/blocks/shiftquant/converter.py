"""Integer training as a model converter: ``model_converters=[dict(type='IntegerTraining', ...)]`` in a config."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from mmcv.cnn.bricks import wrappers
from mmengine.hooks import Hook
from torch import nn

from dinor1.registry import MODEL_CONVERTERS
from dinor1.utils.errors import InputError
from dinor1.utils.model_converters import ModelConverter

from .convert import quantize_model
from .recipe import IntegerRecipe
from .report import QuantReport
from .training_hook import IntegerTrainingHook, check_intervals

# MMCV's wrappers only add support of empty tensors for old versions of torch.
_ALIASES = (wrappers.Linear, wrappers.Conv2d)
_ARGUMENTS = ('bits', 'skip', 'norm', 'start_iter', 'seed', 'stats_interval')


@MODEL_CONVERTERS.register_module()
class IntegerTraining(ModelConverter):
    """Trains and tests a model on integer grids (:mod:`dinor1.blocks.shiftquant`).

    In a config::

        model_converters = [dict(type='IntegerTraining', bits=(4, 4, 4), skip=['backbone.conv1', 're:.*head.*'])]

    Integer layers replace layers and keep their Parameter objects. Checkpoints have the names of the
    floating-point model, except for L1 batch norms.

    Args:
        bits: Bits of weights, activations and gradients, 2 to 8 each; 32: floating point.
        skip: Layers to keep, see :func:`dinor1.blocks.shiftquant.quantize_model`.
        norm: ``'l1'``: replace batch norms and layer norms by L1 norms in integers. None: keep them.
        start_iter: Iterations in floating point before quantization begins.
        seed: Seed of the noise; None: the run's seed.
        stats_interval: Iterations between two measurements of the quantized gradients, see
            :class:`IntegerTrainingHook`; 0: no measurements.
        **options: Other fields of :class:`IntegerRecipe`, such as ``groups=1`` or ``backend='int8'``.

    Attributes:
        recipe: Settings of the quantization.
        report: Report of :meth:`convert`; None before.

    Raises:
        InputError: a setting is unknown or out of range.
    """

    def __init__(
        self,
        bits: Sequence[int] = (4, 4, 4),
        skip: Sequence[str] | None = None,
        norm: str | None = None,
        start_iter: int = 0,
        seed: int | None = None,
        stats_interval: int = 0,
        **options: Any,
    ) -> None:
        # Reject unknown settings, and propose a similar name.
        known = {*_ARGUMENTS, *(field.name for field in dataclasses.fields(IntegerRecipe))}
        for name in options.keys() - known:
            close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0)[0]
            raise InputError(f'IntegerTraining: unknown setting {name!r}; did you mean {close!r}?')
        # Check and store the settings.
        check_intervals(start_iter, stats_interval)
        self.recipe = IntegerRecipe(bits, **options)
        self.skip, self.norm, self.seed = skip, norm, seed
        self.start_iter, self.stats_interval = start_iter, stats_interval
        self.report: QuantReport | None = None

    def convert(self, model: nn.Module, seed: int) -> nn.Module:
        """Replace the layers of ``model`` in place; ``seed`` is the seed of the run.

        Raises:
            InputError: there is no layer to replace, or ``skip`` does not fit the model.
        """
        seed = seed if self.seed is None else self.seed
        report = quantize_model(model, self.recipe, self.skip, self.norm, seed, _ALIASES)
        if not report.names('replaced'):
            raise InputError(
                f'IntegerTraining: no layer of {type(model).__name__} was replaced; check skip. {report}'.replace(
                    '\n', '; '
                )
            )
        self.report = report
        return model

    def hooks(self) -> list[Hook]:
        """Hooks of the converter: the one that sets the noise of every iteration and measures."""
        return [IntegerTrainingHook(self.report, self.start_iter, self.stats_interval)]
