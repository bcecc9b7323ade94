"""A contact sheet: concepts of a split with their drawings."""

from collections.abc import Sequence

import cv2
import numpy as np

from dinor1.datasets.icons.library import IconLibrary
from dinor1.datasets.icons.packs import PACKS
from dinor1.datasets.icons.splits import SPLITS
from dinor1.utils.errors import InputError

_CELL = 36
_LABEL = 14
_MAX_DRAWINGS = 12
_GREEN, _GREY = (40, 120, 40), (90, 90, 90)
# Licences under which a drawing may be copied with attribution and without conditions on the work that contains it.
PERMISSIVE_LICENCES = ('MIT', 'Apache-2.0', 'ISC')


def contact_sheet(
    library: IconLibrary, split: str, columns: int = 4, limit: int | None = None, permissive: bool = False
) -> np.ndarray:
    """Draw the concepts of a split in alphabetical order: a name, and up to 12 drawings below it.

    For novel concepts, drawings of exemplars come first, and have a green line below them.

    Args:
        library: The drawings.
        split: One of ``SPLITS``.
        columns: Concepts per row.
        limit: Number of concepts; None: all.
        permissive: Show drawings from packs under ``PERMISSIVE_LICENCES`` only.

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        InputError: an unknown split, or a number below 1.
    """
    # Check the arguments.
    if split not in SPLITS:
        raise InputError(f'unknown split {split!r}; the icon world has {", ".join(SPLITS)}')
    if columns < 1 or (limit is not None and limit < 1):
        raise InputError(f'{columns} columns, {limit} concepts; give at least 1')
    # Choose the drawings of each concept.
    allowed = {pack.name for pack in PACKS if pack.licence in PERMISSIVE_LICENCES} if permissive else None
    support = library.splits.drawings.get(f'support_{split}', {}) if split.endswith('novel') else {}
    shown = []
    for name in sorted(library.splits.categories(split)):
        exemplars = _allowed(library, support.get(name, ()), allowed)
        targets = _allowed(library, library.splits.drawings[split][name], allowed)
        if exemplars or targets:
            shown.append((name, exemplars, targets))
    shown = shown[:limit]

    # Draw the concepts.
    rows = -(-len(shown) // columns)
    cell_width, cell_height = _MAX_DRAWINGS * _CELL + 12, _CELL + _LABEL + 8
    sheet = np.full((max(rows, 1) * cell_height, columns * cell_width, 3), 255, np.uint8)
    for i, (name, exemplars, targets) in enumerate(shown):
        # Fill the sheet column by column, as in a dictionary.
        x, y = i // rows * cell_width + 6, i % rows * cell_height + 4
        cv2.putText(sheet, name, (x, y + 10), cv2.FONT_HERSHEY_SIMPLEX, 0.38, _GREY, 1, cv2.LINE_AA)
        y += _LABEL
        for k, index in enumerate((*exemplars, *targets)[:_MAX_DRAWINGS]):
            _put(sheet, library, index, x + k * _CELL, y)
        end = x + min(len(exemplars), _MAX_DRAWINGS) * _CELL - 4
        if exemplars:
            cv2.line(sheet, (x, y + _CELL), (end, y + _CELL), _GREEN, 2)
    return sheet


def _allowed(library: IconLibrary, indices: Sequence[int], packs: set[str] | None) -> list[int]:
    return [i for i in indices if packs is None or library.keys[i].split('/')[0] in packs]


def _put(sheet: np.ndarray, library: IconLibrary, index: int, x: int, y: int) -> None:
    """Blend a drawing, black if it has no colours, into the sheet at column ``x`` and row ``y``."""
    side = _CELL - 4
    rendered = library.rendered
    # Scale opacity and colours to the cell.
    share = cv2.resize(rendered.opacity[index], (side, side), interpolation=cv2.INTER_AREA)[..., None] / 255
    colours = np.zeros((side, side, 3), np.float32)
    if rendered.colour_index[index] >= 0:
        colours[:] = cv2.resize(
            rendered.colours[rendered.colour_index[index]], (side, side), interpolation=cv2.INTER_AREA
        )
    # Blend them into the sheet.
    region = sheet[y : y + side, x : x + side]
    region[:] = np.rint(region * (1 - share) + colours * share).astype(np.uint8)
