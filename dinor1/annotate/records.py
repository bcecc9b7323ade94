"""Records of a labelled folder: boxes, images, classes and exemplars, and their JSON format."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dinor1.utils.class_names import check_class_name
from dinor1.utils.errors import InputError

ACCEPTED, PROPOSED, REJECTED = 'accepted', 'proposed', 'rejected'
STATUSES = (ACCEPTED, PROPOSED, REJECTED)
MAX_BOXES, MAX_CLASSES, MAX_EXEMPLARS, MAX_NAME = 5000, 500, 500, 100
_ID = re.compile(r'[0-9a-zA-Z_-]{1,40}')
_COLOR = re.compile(r'#[0-9a-f]{6}')
# Consecutive colours differ in hue and brightness. All of them are visible on dark and on bright images.
PALETTE = (
    '#ff4d4f',
    '#2f9bff',
    '#ffc53d',
    '#36cf6b',
    '#c77dff',
    '#ff8a3d',
    '#13c2c2',
    '#ff6fb5',
    '#a0d911',
    '#8c9eff',
)


class UnknownIdError(KeyError):
    """No image, exemplar or job has the given id."""


@dataclass(frozen=True)
class Box:
    """A box on an image.

    Attributes:
        id: Identifier, which does not change while the box is edited.
        bbox: x1, y1, x2, y2 in pixels of the image.
        class_id: Id of the class.
        status: ``accepted``: an annotation. ``proposed``: a detection that the user has neither accepted nor rejected.
            ``rejected``: a detection that the user has rejected, and that is not proposed again.
        score: Score of the detector, in [0, 1]; None: the box was drawn or imported.
    """

    id: str
    bbox: tuple[float, float, float, float]
    class_id: int
    status: str = ACCEPTED
    score: float | None = None


@dataclass(frozen=True)
class ImageRecord:
    """Boxes and state of an image.

    Attributes:
        revision: Number of changes so far.
        checked: Whether the user has finished the image.
        boxes: The boxes.
        searched: Key of the prompts of the last search; empty: the image was not searched.
        width: Width in pixels; 0: not known yet.
        height: Height in pixels; 0: not known yet.
    """

    revision: int = 0
    checked: bool = False
    boxes: tuple[Box, ...] = ()
    searched: str = ''
    width: int = 0
    height: int = 0

    @property
    def state(self) -> str:
        """``new``, ``proposed`` (searched or labelled, but not finished) or ``checked``."""
        if self.checked:
            return 'checked'
        return 'proposed' if self.boxes or self.searched else 'new'

    def with_status(self, status: str) -> list[Box]:
        """The boxes with a status."""
        return [box for box in self.boxes if box.status == status]


@dataclass(frozen=True)
class ClassInfo:
    """A class.

    Attributes:
        id: Number, which does not change when the class is renamed.
        name: Name.
        color: Colour ``#rrggbb``.
        by_name: Whether the detector also searches for the name; needs a model with a language model.
    """

    id: int
    name: str
    color: str
    by_name: bool = False


@dataclass(frozen=True)
class Exemplar:
    """A box that shows what to find.

    Attributes:
        id: Identifier.
        image: Id of the image.
        bbox: x1, y1, x2, y2 in pixels of the image.
        class_id: Id of the class.
        negative: Whether it shows an object that must not be mistaken for the class.
    """

    id: str
    image: str
    bbox: tuple[float, float, float, float]
    class_id: int
    negative: bool = False


@dataclass(frozen=True)
class Settings:
    """Settings of the page and of the search.

    Attributes:
        threshold: Proposals below this score are not shown, in [0, 1].
        nms_thr: A proposal is removed if its IoU with a proposal of higher score is larger, in [0, 1].
        class_agnostic: Whether proposals of different classes are compared too.
    """

    threshold: float = 0.3
    nms_thr: float = 0.5
    class_agnostic: bool = True


def to_json(item: Any) -> dict[str, Any]:
    """A record as a dict for JSON."""
    return asdict(item)


def box_from_json(value: Any, where: str, size: tuple[int, int] | None, class_ids: Sequence[int]) -> Box:
    """Check a box from a request or a file.

    Args:
        value: The box, in the form of :func:`to_json`.
        where: Name of the image or file, for error messages.
        size: Width and height of the image, to which the box is clipped; None: unknown.
        class_ids: Ids of the classes.

    Raises:
        InputError: a field is missing or invalid, or the box is thinner than one pixel.
    """
    # Check the fields.
    fields = _fields(value, where, ('id', 'bbox', 'class_id'))
    identity = check_id(fields['id'], where)
    if fields['class_id'] not in class_ids:
        raise InputError(f'{where}: no class has the id {fields["class_id"]!r}; load the page again')
    status, score = fields.get('status', ACCEPTED), fields.get('score')
    if status not in STATUSES:
        raise InputError(f'{where}: status must be one of {", ".join(STATUSES)}, got {status!r}')
    if score is not None and not (is_number(score) and 0 <= score <= 1):
        raise InputError(f'{where}: score must be a number in [0, 1] or null, got {score!r}')
    # Clip the box to the image.
    bbox = check_bbox(fields['bbox'], where, size)
    return Box(identity, bbox, fields['class_id'], status, None if score is None else float(score))


def boxes_from_json(values: Any, where: str, size: tuple[int, int] | None, class_ids: Sequence[int]) -> tuple[Box, ...]:
    """Check the boxes of an image; see :func:`box_from_json`.

    Raises:
        InputError: ``values`` is not a list or is too long, a box is invalid, or two boxes have the same id.
    """
    if not isinstance(values, list):
        raise InputError(f'{where}: boxes must be a list; load the page again')
    if len(values) > MAX_BOXES:
        raise InputError(f'{where}: {len(values)} boxes, but at most {MAX_BOXES} are possible; remove some')
    boxes = tuple(box_from_json(value, where, size, class_ids) for value in values)
    if len({box.id for box in boxes}) != len(boxes):
        raise InputError(f'{where}: two boxes have the same id; load the page again')
    return boxes


def check_bbox(value: Any, where: str, size: tuple[int, int] | None) -> tuple[float, float, float, float]:
    """Check x1, y1, x2, y2 in pixels, and clip them to the image.

    Raises:
        InputError: the value is not four finite numbers, or the box is thinner than one pixel within the image.
    """
    # Check the form.
    is_box = isinstance(value, list | tuple) and len(value) == 4 and all(map(is_number, value))
    if not is_box:
        raise InputError(f'{where}: a box is four finite numbers x1, y1, x2, y2, got {str(value)[:80]}')
    # Clip the box to the image, if its size is known.
    width, height = size or (math.inf, math.inf)
    limits = (width, height, width, height)
    x1, y1, x2, y2 = (min(max(float(v), 0.0), limit) for v, limit in zip(value, limits, strict=True))
    # Reject a box of which less than one pixel remains.
    if x2 - x1 < 1 or y2 - y1 < 1:
        numbers = ', '.join(f'{v:g}' for v in value)
        raise InputError(f'{where}: box ({numbers}) is thinner than 1 pixel within the image; draw a larger one')
    return x1, y1, x2, y2


def image_from_json(value: Any, where: str, class_ids: Sequence[int]) -> ImageRecord:
    """Read the record of an image.

    Raises:
        InputError: a field is missing or invalid.
    """
    # Check the numbers and flags.
    fields = _fields(value, where, ('revision', 'checked', 'boxes', 'searched', 'width', 'height'))
    numbers = [fields[key] for key in ('revision', 'width', 'height')]
    is_valid = all(type(number) is int and number >= 0 for number in numbers)
    if not is_valid or not isinstance(fields['checked'], bool) or not isinstance(fields['searched'], str):
        raise InputError(f'{where}: not a record of an image; restore the file, or remove it to start again')
    # Check the boxes; a size of 0 means that the size is unknown.
    revision, width, height = numbers
    boxes = boxes_from_json(fields['boxes'], where, (width, height) if width and height else None, class_ids)
    return ImageRecord(revision, fields['checked'], boxes, fields['searched'], width, height)


def class_from_json(value: Any, where: str) -> ClassInfo:
    """Read a class.

    Raises:
        InputError: a field is missing or invalid.
    """
    fields = _fields(value, where, ('id', 'name', 'color'))
    if type(fields['id']) is not int or not isinstance(fields.get('by_name', False), bool):
        raise InputError(f'{where}: not a class; restore the file')
    name = check_name(fields['name'], where)
    return ClassInfo(fields['id'], name, check_color(fields['color'], where), fields.get('by_name', False))


def exemplar_from_json(value: Any, where: str, class_ids: Sequence[int]) -> Exemplar:
    """Read an exemplar.

    Raises:
        InputError: a field is missing or invalid.
    """
    fields = _fields(value, where, ('id', 'image', 'bbox', 'class_id'))
    if fields['class_id'] not in class_ids or not isinstance(fields.get('negative', False), bool):
        raise InputError(f'{where}: not an exemplar of a known class; load the page again')
    bbox = check_bbox(fields['bbox'], where, None)
    identity, image = check_id(fields['id'], where), check_id(fields['image'], where)
    return Exemplar(identity, image, bbox, fields['class_id'], fields.get('negative', False))


def changed_settings(settings: Settings, changes: Any) -> Settings:
    """Apply changes to settings.

    Raises:
        InputError: a key is unknown, or a value is out of range.
    """
    fields = _fields(changes, 'settings', ())
    for key, value in fields.items():
        if key in ('threshold', 'nms_thr'):
            if not is_number(value) or not 0 <= value <= 1:
                raise InputError(f'settings: {key} must be a number in [0, 1], got {value!r}')
        elif key != 'class_agnostic':
            raise InputError(f'settings: unknown key {key!r}; give threshold, nms_thr or class_agnostic')
        elif not isinstance(value, bool):
            raise InputError(f'settings: class_agnostic must be true or false, got {value!r}')
    return replace(settings, **fields)


def check_name(name: Any, where: str) -> str:
    """Check a class name; returns it without surrounding blanks.

    Raises:
        InputError: the name is empty, too long, or not one line of text.
    """
    name = check_class_name(name, where)
    if len(name) > MAX_NAME or not name.isprintable():
        raise InputError(f'{where}: a class name is one line of at most {MAX_NAME} characters; give a shorter one')
    return name


def check_color(color: Any, where: str) -> str:
    """Check a colour ``#rrggbb``; returns it in lower case.

    Raises:
        InputError: the value is not a colour.
    """
    if not isinstance(color, str) or not _COLOR.fullmatch(color.lower()):
        raise InputError(f'{where}: a colour is written #rrggbb, got {str(color)[:20]!r}')
    return color.lower()


def check_id(value: Any, where: str) -> str:
    """Check an id: letters, digits, ``_`` and ``-``.

    Raises:
        InputError: the value is not an id.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InputError(f'{where}: an id is 1 to 40 letters and digits, got {str(value)[:50]!r}')
    return value


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number."""
    return type(value) in (int, float) and -1e15 < value < 1e15


def _fields(value: Any, where: str, required: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f'{where}: expected an object with named fields; load the page again')
    if missing := [key for key in required if key not in value]:
        raise InputError(f'{where}: has no {missing[0]!r}; restore the file, or load the page again')
    return value
