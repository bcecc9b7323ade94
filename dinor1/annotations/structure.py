"""Checks of the sections and records of a COCO file, which must be valid before its annotations can be checked."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from .findings import Finding

SECTIONS = ('images', 'categories', 'annotations')
_RECORD_KEYS = {
    'images': {'id': (int, str), 'file_name': (str,), 'width': (int, float), 'height': (int, float)},
    'categories': {'id': (int,), 'name': (str,)},
}
_REPEATS = (
    ('images', 'id', 'duplicate image id'),
    ('categories', 'id', 'duplicate category id'),
    # Prompts and lists of classes refer to categories by name.
    ('categories', 'name', 'duplicate category name'),
)


def structure_findings(data: Any) -> Iterator[Finding]:
    """Defects of the sections, of the records of images and categories, and of their ids and names.

    Args:
        data: Content of the file, of any type.

    Yields:
        Findings, the most fundamental first: later ones may follow from it.
    """
    # Sections.
    absent = [s for s in SECTIONS if not isinstance(data, dict) or not isinstance(data.get(s), list)]
    for section in absent:
        yield Finding('missing section', f"not a COCO file, it has no list '{section}'", section)
    if absent:
        return
    # Records, and repeated ids and names.
    for section in _RECORD_KEYS:
        if not data[section]:
            yield Finding('empty section', f"'{section}' is empty", section)
        yield from _incomplete(section, data[section])
    for section, key, kind in _REPEATS:
        yield from _repeats(section, key, kind, data[section])
    # Sizes of images.
    for index, image in enumerate(data['images']):
        if is_valid('images', image) and not has_size(image):
            detail = f'image {image["id"]} has width {image["width"]} and height {image["height"]}'
            yield Finding('invalid image size', detail, 'images', index)


def is_valid(section: str, record: Any) -> bool:
    """Whether a record of ``images`` or ``categories`` has all required keys, with values of the right type."""
    return _invalid_key(section, record) is None


def has_size(image: dict) -> bool:
    """Whether width and height of a valid image record are positive and finite."""
    return all(side > 0 and is_finite(side) for side in (image['width'], image['height']))


def is_finite(value: int | float) -> bool:
    """Whether a number is finite in float64; JSON may have whole numbers that are too large."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _invalid_key(section: str, record: Any) -> str | None:
    for key, types in _RECORD_KEYS[section].items():
        value = record.get(key) if isinstance(record, dict) else None
        # type() rather than isinstance(): true and false are not ids.
        if type(value) not in types:
            return key
        if (key == 'id' and not fits_int64(value)) or (key == 'name' and not value.strip()):
            return key
    return None


def fits_int64(value: Any) -> bool:
    """Whether an integer fits into the 64 bits in which evaluation stores ids; True for other types."""
    return type(value) is not int or -(2**63) <= value < 2**63


def is_whole_float(value: Any) -> bool:
    """Whether an id was written as 1.0 instead of 1."""
    return type(value) is float and value.is_integer()


def _incomplete(section: str, records: list) -> Iterator[Finding]:
    for index, record in enumerate(records):
        key = _invalid_key(section, record)
        if key is None:
            continue
        detail = f"entry {index} of '{section}' has no valid '{key}'"
        # Distinguish numbers of another type, which can be converted.
        value = record.get(key) if isinstance(record, dict) else None
        if key == 'id' and is_whole_float(value):
            yield Finding('fractional type of id', f'{detail}, but {value!r}', section, index)
        elif isinstance(value, str) and str not in _RECORD_KEYS[section][key] and as_number(value) is not None:
            yield Finding('number as text', f'{detail}, but the text {value!r}', section, index)
        else:
            yield Finding('incomplete record' if section == 'images' else 'incomplete category', detail, section, index)


def as_number(text: str) -> int | float | None:
    """The finite number that ``text`` represents, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) else value


def _repeats(section: str, key: str, kind: str, records: list) -> Iterator[Finding]:
    # Count the values; usually none is repeated.
    values = [record[key] if is_valid(section, record) else None for record in records]
    counts = Counter(value for value in values if value is not None)
    if len(counts) == len(records):
        return
    # Report every occurrence except the first.
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            yield Finding(kind, f"{key} {value!r} occurs {counts[value]} times in '{section}'", section, index)
        if value is not None:
            seen.add(value)
