"""Composition of an image of the icon world: a background, objects, clutter, light and noise.

Boxes surround the pixels of an object inside the image, including pixels that a later object covers. A tile behind an
object is not part of the object.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from dinor1.datasets.icons import backgrounds
from dinor1.datasets.icons.render import Rendered
from dinor1.datasets.icons.sprites import MIN_OPACITY, Appearance, Sprite, contrasting_colour, make_sprite, paint

# Longer side of a drawing before it is distorted, in pixels.
MIN_SIZE, MAX_SIZE = 16, 100
# Largest part of an object's box that later objects may cover, and largest part that may be outside of the image.
MAX_OCCLUSION = 0.4
MAX_OUTSIDE = 0.4
MAX_OBJECTS = 20
_LAYOUTS = ('free', 'toolbar', 'menu', 'grid')
_LAYOUT_SHARES = (0.6, 0.14, 0.12, 0.14)


class Scene(NamedTuple):
    """An image and its objects.

    Attributes:
        pixels: (H, W, 3) uint8, BGR.
        objects: Index of each object that is in the image, in the order of the request.
        boxes: (N, 4) int64, ``[x, y, width, height]`` in pixels.
        areas: (N,) int64, pixels of the object inside the image.
    """

    pixels: np.ndarray
    objects: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray


class _Placed(NamedTuple):
    index: int
    sprite: Sprite
    x: int
    y: int
    margin: int


def compose(
    rng: np.random.Generator, rendered: Rendered, objects: Sequence[int], clutter: Sequence[int], sides: tuple[int, int]
) -> Scene:
    """Draw an image.

    Args:
        rng: Source of all random choices, including the size of the image.
        rendered: All drawings.
        objects: Drawing of each object; entries may repeat.
        clutter: Drawings that are not annotated. Those without space are left out.
        sides: Smallest and largest side of the image, in pixels.

    Returns:
        The image. An object without space, which is rare, is left out.

    Raises:
        ValueError: more than ``MAX_OBJECTS`` objects.
    """
    if len(objects) > MAX_OBJECTS:
        raise ValueError(f'{len(objects)} objects in one image; at most {MAX_OBJECTS} fit')
    height, width = rng.integers(sides[0], sides[1], size=2, endpoint=True).tolist()
    layout = _LAYOUTS[rng.choice(len(_LAYOUTS), p=_LAYOUT_SHARES)]
    # 1. Draw the background, and choose all positions.
    canvas = _background(rng, layout, height, width)
    requests = np.concatenate([np.arange(len(objects)), np.full(len(clutter), -1)]).astype(int)
    drawings = np.concatenate([np.asarray(objects, int), np.asarray(clutter, int)]).astype(int)
    order = rng.permutation(len(requests))
    requests, drawings = requests[order], drawings[order]
    if layout == 'free':
        look = Appearance()
        placed = _place_freely(rng, rendered, requests, drawings, height, width, look)
    else:
        look = _screen_appearance(rng, canvas)
        placed = _place_on_screen(rng, canvas, rendered, requests, drawings, layout, look)

    # 2. Draw the objects, from the lowest to the topmost.
    boxes, areas, found = [], [], []
    for item in placed:
        paint(rng, canvas, item.sprite, item.x, item.y, look, item.margin)
        if item.index >= 0:
            box, area = _visible_box(item, height, width)
            found.append(item.index)
            boxes.append(box)
            areas.append(area)

    # 3. Add light, blur and noise of a camera.
    if layout == 'free' and rng.random() < 0.5:
        canvas *= 1 + backgrounds.smooth_field(rng, height, width, 3, 0.2)[..., None]
    if rng.random() < 0.15:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 0.9))
    if layout == 'free':
        level = int(rng.integers(0, 8))
        canvas += rng.integers(-level, level, size=canvas.shape, dtype=np.int8, endpoint=True)
    # 4. Convert the pixels, and sort the objects in the order of the arguments.
    pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    rank = np.argsort(found, kind='stable') if found else np.zeros(0, int)
    return Scene(
        pixels,
        np.array(found, np.int64)[rank],
        np.array(boxes, np.int64).reshape(-1, 4)[rank],
        np.array(areas, np.int64)[rank],
    )


def _background(rng: np.random.Generator, layout: str, height: int, width: int) -> np.ndarray:
    if layout != 'free' and rng.random() < 0.8:
        return backgrounds.screen(rng, height, width)
    kind = rng.random()
    if kind < 0.6 and layout == 'free':
        return backgrounds.texture(rng, height, width)
    return backgrounds.gradient(rng, height, width) if kind < 0.85 else backgrounds.screen(rng, height, width)


def _screen_appearance(rng: np.random.Generator, canvas: np.ndarray) -> Appearance:
    """Choose the colours of the icons of a screen: one colour, one kind of tile, or a different colour for each."""
    behind = canvas.mean(axis=(0, 1))
    shape = ('square', 'round', 'circle')[rng.integers(3)]
    kind = rng.random()
    if kind < 0.5:
        return Appearance(False, contrasting_colour(rng, behind), 0.0)
    if kind < 0.75:
        tile = contrasting_colour(rng, behind)
        return Appearance(False, contrasting_colour(rng, tile), 1.0, tile, shape)
    return Appearance(False, None, float(rng.random() < 0.5), None, shape)


def _place_freely(
    rng: np.random.Generator,
    rendered: Rendered,
    requests: np.ndarray,
    drawings: np.ndarray,
    height: int,
    width: int,
    look: Appearance,
) -> list[_Placed]:
    """Choose random sizes and positions; later objects may cover earlier ones, and the border may truncate objects."""
    # For each pixel the number of the topmost item, from 1; and the area of the box of each item inside the image.
    top = np.zeros((height, width), np.int32)
    sizes_of_boxes: list[int] = []
    placed: list[_Placed] = []
    largest = min(MAX_SIZE, 1.5 * min(height, width) / np.sqrt(max(len(requests), 1)))
    for request, drawing in zip(requests.tolist(), drawings.tolist(), strict=True):
        for attempt in range(4):
            # The limit shrinks, so that crowded images end up with smaller objects.
            limit = max(MIN_SIZE + 1.0, largest * 0.75**attempt)
            size = round(np.exp(rng.uniform(np.log(MIN_SIZE), np.log(limit))))
            sprite = make_sprite(rng, rendered, drawing, size, distort=True)
            margin = max(2, size // 6) if rng.random() < look.tile else 0
            item = _find_position(rng, request, sprite, margin, top, sizes_of_boxes)
            if item is not None:
                placed.append(item)
                break
    return placed


def _find_position(
    rng: np.random.Generator, request: int, sprite: Sprite, margin: int, top: np.ndarray, sizes: list[int]
) -> _Placed | None:
    """Find a position for one more item; None if all tested positions cover too much. Updates ``top`` and ``sizes``."""
    # Choose whether the item may cover others, and whether the border may truncate it.
    height, width = top.shape
    h, w = sprite.opacity.shape
    may_overlap, may_be_cut = rng.random() < 0.3, rng.random() < 0.12
    cut_x, cut_y = (int(MAX_OUTSIDE * w), int(MAX_OUTSIDE * h)) if may_be_cut else (-1, -1)
    if width - w + cut_x < 1 - cut_x or height - h + cut_y < 1 - cut_y:
        return None
    # Test random positions.
    for _ in range(12):
        x = int(rng.integers(-cut_x, width - w + cut_x + 1)) if may_be_cut else int(rng.integers(0, width - w + 1))
        y = int(rng.integers(-cut_y, height - h + cut_y + 1)) if may_be_cut else int(rng.integers(0, height - h + 1))
        box = slice(max(y, 0), min(y + h, height)), slice(max(x, 0), min(x + w, width))
        inside = (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
        if inside < (1 - MAX_OUTSIDE) * h * w:
            continue
        # Reject the position if the item, with its tile, covers too much of another one.
        outer = (
            slice(max(y - margin, 0), min(y + h + margin, height)),
            slice(max(x - margin, 0), min(x + w + margin, width)),
        )
        covered = top[outer]
        if covered.any():
            if not may_overlap:
                continue
            before = top.copy()
            covered[:] = 0
            visible = np.bincount(top.ravel(), minlength=len(sizes) + 1)[1:]
            if (visible < (1 - MAX_OCCLUSION) * np.array(sizes)).any():
                top[:] = before
                continue
        # Place the item.
        sizes.append(inside)
        top[box] = len(sizes)
        return _Placed(request, sprite, x, y, margin)
    return None


def _place_on_screen(
    rng: np.random.Generator,
    canvas: np.ndarray,
    rendered: Rendered,
    requests: np.ndarray,
    drawings: np.ndarray,
    layout: str,
    look: Appearance,
) -> list[_Placed]:
    """Place icons of equal size in rows (toolbar), in columns with text (menu), or in a grid with labels."""
    height, width = canvas.shape[:2]
    # Choose the positions.
    size, slots = _slots(rng, layout, len(requests), height, width)
    margin = max(2, size // 6) if rng.random() < look.tile else 0
    placed = []
    # Place the icons, and draw the labels next to them.
    for request, drawing, (x, y, label) in zip(requests.tolist(), drawings.tolist(), slots, strict=False):
        sprite = make_sprite(rng, rendered, drawing, size - 2 * margin, distort=False)
        h, w = sprite.opacity.shape
        placed.append(_Placed(request, sprite, x + (size - w) // 2, y + (size - h) // 2, margin))
        if label == 'right':
            length = int(rng.integers(20, 60))
            backgrounds.text_line(rng, canvas, x + size + 5, y + size // 2 - 2, length, 3)
        elif label == 'below':
            backgrounds.text_line(rng, canvas, x, y + size + margin + 2, size, 2)
    return placed


def _slots(
    rng: np.random.Generator, layout: str, count: int, height: int, width: int
) -> tuple[int, list[tuple[int, int, str]]]:
    """Size of the icons with their tiles, and at least ``count`` positions with the side of their label."""
    margin = 4
    # Use one or two columns for a menu, if the icons fit.
    if layout == 'menu':
        pitch = int(rng.integers(24, 34))
        columns, rows = int(rng.integers(1, 3)), (height - 2 * margin) // pitch
        if rows * columns >= count:
            size = int(rng.uniform(0.75, 0.95) * pitch)
            step = (width - 2 * margin) // columns
            slots = [(margin + c * step, margin + r * pitch, 'right') for c in range(columns) for r in range(rows)]
            return size, slots
    # Use rows of equal distance for a toolbar, if the icons fit.
    if layout == 'toolbar':
        pitch = int(rng.integers(26, 36))
        columns = (width - 2 * margin) // pitch
        rows = -(-count // columns)
        step = (height - 2 * margin) // max(rows, 1)
        if step >= pitch:
            offset = int(rng.integers(0, step - pitch + 1))
            size = int(rng.uniform(0.7, 0.85) * pitch)
            return size, [
                (margin + c * pitch, margin + offset + r * step, '') for r in range(rows) for c in range(columns)
            ]
    # Otherwise use a grid that fills the image.
    columns = max(1, int(np.ceil(np.sqrt(count * width / height))))
    rows = max(1, -(-count // columns))
    cell_w, cell_h = (width - 2 * margin) // columns, (height - 2 * margin) // rows
    size = int(np.clip(rng.uniform(0.6, 0.85) * min(cell_w, cell_h - 6), MIN_SIZE + 6, MAX_SIZE))
    slots = [
        (margin + c * cell_w + (cell_w - size) // 2, margin + r * cell_h, 'below')
        for r in range(rows)
        for c in range(columns)
    ]
    return size, slots


def _visible_box(item: _Placed, height: int, width: int) -> tuple[list[int], int]:
    """Box and area, in pixels, of the object inside the image."""
    h, w = item.sprite.opacity.shape
    top, left = max(item.y, 0), max(item.x, 0)
    inside = item.sprite.opacity[top - item.y : height - item.y, left - item.x : width - item.x] >= MIN_OPACITY
    x, y, box_w, box_h = cv2.boundingRect(inside.astype(np.uint8))
    return [left + x, top + y, box_w, box_h], int(inside.sum())
