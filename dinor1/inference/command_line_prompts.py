"""Prompts as command-line arguments: ``REF.jpg:x1,y1,x2,y2[:name]``, ``REF.jpg:x,y[:name]`` and ``cat . dog``."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dinor1.inference.class_names import split_text
from dinor1.inference.prompt_regions import as_regions
from dinor1.inference.visual_prompt import VisualPrompt
from dinor1.utils.class_names import check_class_name, class_key, distinct_names
from dinor1.utils.errors import InputError
from dinor1.utils.image_file import is_video
from dinor1.utils.video_file import read_frame, split_frame

DEFAULT_NAME = 'object'
DEFAULT_NEGATIVE_NAME = 'not object'


class BoxArgument(NamedTuple):
    """One ``--prompt``.

    Attributes:
        image: Path of the reference image.
        box: (x1, y1, x2, y2), or the point (x, y), in pixels of the image; or a box normalised by its size.
        name: Class name.
        negative: Whether the class is searched for but not reported.
    """

    image: str
    box: tuple[float, ...]
    name: str
    negative: bool


def parse_box(argument: str, negative: bool = False, normalized: bool = False) -> BoxArgument:
    """Read ``REF.jpg:x1,y1,x2,y2[:name]``, or with a point ``REF.jpg:x,y[:name]``.

    The argument is parsed from the right: the path may contain colons, the name may not. A leading ``-`` of the
    argument or of the name marks a negative prompt; write ``./-name.jpg`` for a file whose name begins with ``-``.

    Args:
        argument: Argument of the command line.
        negative: Treat the prompt as negative without a leading ``-`` too.
        normalized: Whether the box is normalised by the size of the image.

    Raises:
        InputError: the argument has another form, the name is not valid Unicode, or the box is invalid, see
            :func:`~dinor1.inference.visual_prompt.as_boxes`.
    """
    # Split off the name, if there is one, and the box.
    text = argument.removeprefix('-')
    negative = negative or text != argument
    path, separator, last = text.rpartition(':')
    name, before = '', path.rpartition(':')
    has_name = last.count(',') != 3 and not (_is_point(last) and before[2].count(',') != 3)
    if has_name:
        name = last.strip()
        path, separator, last = before
    if not path or not separator or not (last.count(',') == 3 or _is_point(last)):
        raise InputError(
            f'--prompt {argument}: expected REF.jpg:x1,y1,x2,y2 or REF.jpg:x1,y1,x2,y2:name, or x,y for a point'
        )
    # Read name and box.
    if name.startswith('-'):
        name, negative = name.removeprefix('-').strip(), True
    box = as_regions([last.split(',')], f'--prompt {argument}', normalized)[0]
    name = check_class_name(name or (DEFAULT_NEGATIVE_NAME if negative else DEFAULT_NAME), f'--prompt {argument}')
    return BoxArgument(path, tuple(box.tolist()), name, negative)


def _is_point(text: str) -> bool:
    """Whether a text is two numbers, separated by a comma."""
    try:
        return len([float(number) for number in text.split(',')]) == 2
    except ValueError:
        return False


def parse_text(argument: str) -> tuple[list[str], list[str]]:
    """Read ``cat . dog . -wolf``.

    Returns:
        The positive names, and the names that a leading ``-`` marks as negative.

    Raises:
        InputError: a ``-`` has no name, or the text is not valid Unicode.
    """
    names = split_text(argument)
    positive = [name for name in names if not name.startswith('-')]
    negative = [name.removeprefix('-').strip() for name in names if name.startswith('-')]
    if '' in negative:
        raise InputError(f'--text {argument}: a - without a name; write -NAME for a negative prompt')
    return positive, negative


def gather_prompts(
    boxes: Sequence[str] = (), negative_boxes: Sequence[str] = (), text: str = '', normalized: bool = False
) -> dict[str, list]:
    """Convert arguments of the command line to arguments of :meth:`DINOR1Inferencer.set_prompts`.

    The boxes of each image are grouped, so that the image is read once. ``clip.mp4@120`` in the place of a path means
    frame 120 of a video, which is decoded here.

    Args:
        boxes: Arguments that :func:`parse_box` reads.
        negative_boxes: The same, for negative prompts.
        text: An argument that :func:`parse_text` reads.
        normalized: Whether all boxes are normalised by the size of their image.

    Raises:
        InputError: see :func:`parse_box` and :func:`parse_text`; also if a class is both positive and negative, or a
            frame of a video cannot be read.
    """
    # Parse all arguments.
    parsed = [parse_box(argument, normalized=normalized) for argument in boxes]
    parsed += [parse_box(argument, negative=True, normalized=normalized) for argument in negative_boxes]
    names, negative_names = parse_text(text)
    # Reject classes that are both positive and negative.
    positive = {class_key(name) for name in [*(b.name for b in parsed if not b.negative), *names]}
    negative = distinct_names([*(b.name for b in parsed if b.negative), *negative_names])
    for name in negative:
        if class_key(name) in positive:
            raise InputError(f'prompt {name!r} is given as positive and as negative; name one of them differently')
    # Group the boxes by image.
    # Points and boxes of an image are separate prompts.
    groups: dict[tuple[str, int], list[BoxArgument]] = {}
    for box in parsed:
        groups.setdefault((box.image, len(box.box)), []).append(box)
    visual = [
        VisualPrompt(_frame(image), [b.box for b in group], [b.name for b in group], normalized, image)
        for (image, _), group in groups.items()
    ]
    return dict(visual=visual, text=names + negative_names, negative=negative)


def _frame(path: str) -> str | np.ndarray:
    """The frame (H, W, 3) BGR that a path such as ``clip.mp4@120`` means, or the path of an image.

    Raises:
        InputError: the path is that of a video, or the frame cannot be read.
    """
    named = split_frame(path)
    if named is not None:
        return read_frame(*named)
    if is_video(path):
        raise InputError(f'--prompt {path}: a video; name one of its frames, such as {path}@0:x1,y1,x2,y2')
    return path
