"""Arguments of the methods of the inferencer: their short forms, and checks."""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinor1.structures import PromptBank, PromptSet
from dinor1.utils.class_names import check_class_name, class_key, distinct_names
from dinor1.utils.errors import InputError

from .class_names import split_text
from .visual_prompt import VisualPrompt


def check_batch_size(batch_size: Any) -> None:
    """Raise an error for a batch size that is not an integer of at least 1.

    Raises:
        InputError: the batch size is no such integer.
    """
    if type(batch_size) is not int or batch_size < 1:
        raise InputError(f'batch_size must be an integer of at least 1, got {batch_size!r}')


def class_thresholds(score_thr: Any, prompts: PromptSet) -> Tensor:
    """Minimum score (num_classes,) of each class.

    Args:
        score_thr: One number for all classes, or a dict with a number for each reported class.
        prompts: The prompts.

    Raises:
        InputError: a threshold is not a number in [0, 1], or a class has none.
    """
    # Expand the threshold to all classes; a class that is not reported needs none.
    if isinstance(score_thr, Mapping):
        reported = [prompts.names[i] for i in prompts.reported.tolist()]
        if missing := [name for name in reported if name not in score_thr]:
            raise InputError(f'score_thr: no threshold for class {missing[0]!r}; give one for every class')
        values = [score_thr.get(name, 0.0) for name in prompts.names]
    else:
        values = [score_thr] * max(prompts.num_classes, 1)
    # Check the numbers.
    for value in values:
        if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
            raise InputError(f'score_thr must be a number in [0, 1], got {value!r}')
    return torch.tensor(values, dtype=torch.float32)


def check_width(prompts: PromptSet, embed_dims: int) -> None:
    """Raise an error for prompts of another width than that of the model.

    Raises:
        InputError: the widths differ.
    """
    width = prompts.embeddings.shape[-1]
    if width != embed_dims:
        raise InputError(f'prompts: embeddings of width {width}, not {embed_dims}; make them with this model')


def prompt_arguments(prompts: Any) -> dict[str, Any]:
    """Convert the short forms of prompts to arguments of :meth:`DINOR1Inferencer.set_prompts`.

    Raises:
        InputError: ``prompts`` has none of these forms.
    """
    # A bank, a text, or a single visual prompt.
    if isinstance(prompts, PromptBank | PathLike) or (isinstance(prompts, str) and prompts.endswith('.safetensors')):
        return dict(bank=prompts)
    if isinstance(prompts, str):
        return dict(text=_no_file(prompts))
    single = (
        isinstance(prompts, tuple | list) and len(prompts) in (3, 4, 5) and not isinstance(prompts[0], tuple | list)
    )
    if single and not isinstance(prompts[1], str) and isinstance(prompts[0], str | PathLike | np.ndarray | Image.Image):
        return dict(visual=[tuple(prompts)])
    # The arguments themselves.
    if isinstance(prompts, Mapping):
        known = ('visual', 'text', 'bank', 'negative')
        if unknown := [key for key in prompts if key not in known]:
            raise InputError(f'prompts: unknown key {unknown[0]!r}; give visual, text, bank or negative')
        return dict(prompts)
    # A list of class names, or of visual prompts.
    if isinstance(prompts, Sequence):
        texts = [item for item in prompts if isinstance(item, str)]
        if texts and len(texts) == len(prompts):
            return dict(text=[_no_file(text) for text in texts])
        return dict(visual=prompts)
    raise InputError(f'prompts: expected boxes on images, names, a bank or a dict of these, got {prompts!r}')


def _no_file(text: str) -> str:
    """A class name, or several in one text.

    Raises:
        InputError: the text is the path of a file.
    """
    if os.path.isfile(text):  # unlike pathlib, it accepts texts that are too long for a path
        raise InputError(
            f'prompts: {text} is a file, not a class name; give (image, boxes, names) for an image, and '
            'dict(bank=FILE) for a prompt bank'
        )
    return text


def as_list(values: Any, argument: str) -> list:
    """The items of an argument of :meth:`DINOR1Inferencer.set_prompts`.

    Raises:
        InputError: the argument has no items.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(f'{argument}: expected a list, got {values!r}')
    return list(values)


def class_names(text: Any, argument: str) -> list[str]:
    """Distinct class names, from a text or from a list.

    Raises:
        InputError: a name is not a non-empty string of valid Unicode.
    """
    if isinstance(text, str):
        return split_text(text)
    return distinct_names([check_class_name(name, argument) for name in as_list(text, argument)])


def visual_prompt(item: Any, position: int) -> VisualPrompt:
    """Check that a visual prompt has its parts, and name them.

    Raises:
        InputError: the item is not a tuple of three to five, or its fourth value is not a boolean.
    """
    if not isinstance(item, tuple | list) or len(item) not in (3, 4, 5):
        raise InputError(f'visual prompt {position}: expected a list of (image, boxes, names), got {item!r}')
    prompt = VisualPrompt(*item)
    if not isinstance(prompt.normalized, bool):
        raise InputError(f'visual prompt {position}: normalized must be True or False, got {prompt.normalized!r}')
    return prompt


def with_negatives(prompts: PromptSet, negative: Sequence[str]) -> PromptSet:
    """Mark classes as negative.

    Raises:
        InputError: a name is not among the prompts, or no positive class remains.
    """
    # Check the names.
    keys = [class_key(name) for name in prompts.names]
    negative_keys = {class_key(name) for name in negative}
    for name in negative:
        if class_key(name) not in keys:
            close = difflib.get_close_matches(name, prompts.names, n=1) or [', '.join(prompts.names)]
            raise InputError(f'negative prompt {name!r} is not among the prompts; did you mean {close[0]!r}?')
    if prompts.names and set(keys) <= negative_keys:
        raise InputError('all prompts are negative, so that nothing would be reported; give a positive prompt')
    # Mark the classes.
    return replace(prompts, negative=torch.tensor([key in negative_keys for key in keys]))
