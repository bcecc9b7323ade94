"""Check, before the first iteration, that the language model of a detector can read the class names."""

from typing import Any

from torch import nn

from dinor1.engine.training_data import data_sets_within
from dinor1.models import DINOR1
from dinor1.models.prompts import why_unreadable
from dinor1.utils.errors import InputError


def check_class_names(model: nn.Module, dataset: Any) -> None:
    """Raise an error for a class name that cannot be a text prompt.

    Args:
        model: The detector; without a language model, every name is accepted.
        dataset: Data set, or a wrapper of several data sets.

    Raises:
        InputError: a name consists of brackets or punctuation only, is unknown to the language model, or is too long.
    """
    language_model = model.language_model if isinstance(model, DINOR1) else None
    if language_model is None:
        return
    for one in data_sets_within(dataset):
        for name in one.metainfo.get('classes', ()):
            if reason := why_unreadable(name, language_model):
                raise InputError(
                    f'{one.ann_file}: the class {name!r} {reason}; rename it in the file, leave it out by '
                    'exclude_categories, or train without text (model.prompts.alignment=None and '
                    "prompt_mode_schedule='visual')"
                )
