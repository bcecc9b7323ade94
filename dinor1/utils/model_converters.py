"""Convert a model after it has been built, by ``model_converters=[dict(type=...), ...]`` in a config.

Building blocks change the layers of other models only in this way. Training, testing, checkpoint loading and the
inferencer all call :func:`convert_model`, so that a checkpoint always has the same layers.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from torch import nn

from dinor1.registry import MODEL_CONVERTERS
from dinor1.utils.errors import InputError


class ModelConverter(ABC):
    """Base class of converters, which change the layers of a model.

    A converter runs before the model is wrapped for distributed training, before weights are loaded and before the
    optimizer is built.
    """

    @abstractmethod
    def convert(self, model: nn.Module, seed: int) -> nn.Module:
        """Convert ``model``, possibly in place.

        Args:
            model: The model as built from its config, after the preceding converters.
            seed: Seed of the run, for converters that draw random numbers.

        Returns:
            The converted model.

        Raises:
            InputError: the settings do not fit the model.
        """

    def hooks(self) -> list[Hook]:
        """Hooks that a training or test run of the converted model needs; called after :meth:`convert`."""
        return []


def convert_model(
    model: nn.Module, converters: Sequence[Mapping[str, Any]] | None, seed: int = 0
) -> tuple[nn.Module, list[ModelConverter]]:
    """Apply converters to a model, in order.

    Args:
        model: The model as built from its config.
        converters: Value of ``model_converters`` in a config; None: no converters.
        seed: Seed of the run.

    Returns:
        The converted model, and the converters that were applied.

    Raises:
        InputError: ``converters`` is not a list of dicts with a known ``type``, or the settings of a converter do not
            fit the model.
    """
    applied = []
    for converter in _build(converters or ()):
        model = converter.convert(model, seed)
        applied.append(converter)
    return model, applied


def _build(converters: Sequence[Mapping[str, Any]]) -> list[ModelConverter]:
    if isinstance(converters, Mapping | str) or not isinstance(converters, Sequence):
        raise InputError(f'model_converters must be a list of dicts, got {converters!r}')
    built = []
    for number, settings in enumerate(converters):
        kind = settings.get('type') if isinstance(settings, Mapping) else None
        if kind is None:
            raise InputError(f'model_converters[{number}] must be a dict with a type, got {settings!r}')
        if isinstance(kind, str) and MODEL_CONVERTERS.get(kind) is None:
            known = sorted(MODEL_CONVERTERS.module_dict)
            close = difflib.get_close_matches(kind, known, n=1, cutoff=0)
            hint = f'; did you mean {close[0]!r}?' if close else ''
            raise InputError(f'model_converters[{number}]: there is no model converter {kind!r}{hint}')
        built.append(MODEL_CONVERTERS.build(dict(settings)))
    return built
