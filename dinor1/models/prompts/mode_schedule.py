"""Prompt mode per training iteration: boxes or class names."""

import re

import numpy as np

from dinor1.utils.errors import InputError

_ALTERNATE = re.compile(r'alternate\((\d+), *(\d+)\)')


def prompt_mode(schedule: str, seed: int, iteration: int) -> str:
    """The kind of prompts of an iteration, a function of its arguments only: equal on all ranks and after a resume.

    Args:
        schedule: ``visual``: boxes in every iteration. ``random``: boxes or class names with equal probability, as in
            DETR-ViP (arXiv 2604.14684). ``alternate(v, t)``: v iterations with boxes, then t with class names.
        seed: Seed of the run, at least 0.
        iteration: Index of the iteration, from 0.

    Returns:
        ``visual`` or ``text``.

    Raises:
        InputError: the schedule is unknown.
    """
    if schedule == 'visual':
        return 'visual'
    if schedule == 'random':
        return 'text' if np.random.default_rng([seed, iteration]).random() < 0.5 else 'visual'
    match = _ALTERNATE.fullmatch(schedule)
    visual, text = (int(number) for number in match.groups()) if match else (0, 0)
    if not visual or not text:
        raise InputError(
            "model.prompts.prompt_mode_schedule must be 'visual' or 'random' or 'alternate(v, t)' with numbers of at "
            f'least 1, such as alternate(8, 1), got {schedule!r}'
        )
    return 'visual' if iteration % (visual + text) < visual else 'text'
