"""Detection in several views of an image: in overlapping tiles, and in mirror images.

Tiles are for images that are large or show more objects than the detector has queries. The views of an image are the
whole image, which the detector sees at the reduced size of its test pipeline, and a grid of square tiles; with flips
also the mirror image of each of them, left and right exchanged. The detections of all views are merged by these rules,
class by class:

1. Of detections that no inner tile edge cuts, those that overlap a better one by an IoU above 0.6 are removed.
2. A detection within two pixels of a tile edge that is not an edge of the image may show a part of an object. It is
   removed if 70 % of its area are inside a detection that rule 1 keeps.
3. Of the remaining cut detections, those that overlap a better one by an IoU above 0.6 are removed.

An object that is not longer than the overlap, in pixels, is completely inside a tile. Tile edges may cut a longer
object in every tile; it is found once if the detector finds it on the whole image.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import batched_nms, box_area

from dinor1.utils.errors import InputError

MIN_TILE = 32
_EDGE, _IOU_THR, _COVERED = 2, 0.6, 0.7


class View(NamedTuple):
    """A rectangle of an image, in pixels xyxy."""

    x1: int
    y1: int
    x2: int
    y2: int


def image_views(width: int, height: int, tile: int, overlap: float) -> list[View]:
    """The whole image, then its tiles row by row.

    The tiles of a row or column have equal distances, and overlap at least as much as required. An image that is not
    larger than a tile has only one view, the whole image.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        tile: Side of a tile in pixels, at least 32; the tiles of a narrower image have its width.
        overlap: Fraction of a tile that the next one covers too, in [0, 0.9].

    Raises:
        InputError: tile or overlap is out of range.
    """
    if type(tile) is not int or tile < MIN_TILE:
        raise InputError(f'tile must be an integer of at least {MIN_TILE} pixels, got {tile!r}')
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap <= 0.9:
        raise InputError(f'overlap must be a number in [0, 0.9], a fraction of the tile, got {overlap!r}')
    tiles = [
        View(x, y, min(x + tile, width), min(y + tile, height))
        for y in _starts(height, tile, overlap)
        for x in _starts(width, tile, overlap)
    ]
    return [View(0, 0, width, height)] + (tiles if len(tiles) > 1 else [])


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Left edges of the tiles along one side of an image."""
    if length <= tile:
        return [0]
    count = 1 + math.ceil((length - tile) / max(1, math.floor(tile * (1 - overlap))))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def check_views(tile: int | None, overlap: float, flip: bool) -> None:
    """Check the arguments of :func:`detect_views` before the first image is read.

    Raises:
        InputError: an argument is out of range.
    """
    if tile is not None:
        image_views(1, 1, tile, overlap)
    if not isinstance(flip, bool):
        raise InputError(f'flip must be True or False, got {flip!r}')


def detect_views(
    image: np.ndarray,
    detect: Callable[[Sequence[np.ndarray]], Sequence[InstanceData]],
    tile: int | None,
    overlap: float = 0.2,
    flip: bool = False,
) -> InstanceData:
    """Detect on the views of an image, and merge the detections.

    Args:
        image: BGR image (H, W, 3) of uint8.
        detect: Function that takes images, and returns for each ``bboxes`` (n, 4) in its pixels, ``scores`` (n,),
            ``labels`` (n,), and any other fields.
        tile: Side of a tile in pixels; None: the whole image is the only view.
        overlap: Fraction of a tile that the next one covers too.
        flip: Whether to detect on the mirror image of each view too.

    Returns:
        The detections in pixels of the image, by descending score.

    Raises:
        InputError: tile or overlap is out of range.
    """
    # Detect on each view, and on its mirror image.
    height, width = image.shape[:2]
    views = [View(0, 0, width, height)] if tile is None else image_views(width, height, tile, overlap)
    crops = [image[v.y1 : v.y2, v.x1 : v.x2] for v in views]
    mirrored = [crop[:, ::-1] for crop in crops] if flip else []
    found = list(detect([np.ascontiguousarray(crop) for crop in crops + mirrored]))
    # Mirror the boxes of mirror images back.
    for i, view in enumerate(views if flip else [], len(views)):
        found[i] = found[i][:]
        x1, y1, x2, y2 = found[i].bboxes.unbind(-1)
        side = view.x2 - view.x1
        found[i].bboxes = torch.stack([side - x2, y1, side - x1, y2], -1)
    views = views * 2 if flip else views
    # Move the boxes to the pixels of the image.
    moved = []
    for view, instances in zip(views, found, strict=True):
        one = instances[:]
        one.bboxes = one.bboxes + one.bboxes.new_tensor([view.x1, view.y1, view.x1, view.y1])
        moved.append(one)
    return merge_views(moved, views)


def merge_views(found: Sequence[InstanceData], views: Sequence[View]) -> InstanceData:
    """Merge the detections of several views of an image by the rules above.

    Args:
        found: Per view ``bboxes`` (n, 4) in pixels of the image, ``scores`` (n,), ``labels`` (n,), and other fields.
        views: The views; the first is the whole image.

    Returns:
        The detections that remain, by descending score.
    """
    # Join the views.
    together = InstanceData.cat(list(found))
    if not len(together):
        return together
    cut = torch.cat([_is_cut(instances.bboxes, view, views[0]) for instances, view in zip(found, views, strict=True)])
    # Merge the detections that are not cut, and drop cut detections inside of these.
    whole = _without_duplicates(together[~cut])
    parts = together[cut]
    parts = _without_duplicates(parts[~_is_covered(parts, whole)])
    # Sort by score.
    merged = InstanceData.cat([whole, parts])
    return merged[merged.scores.argsort(descending=True, stable=True)]


def _is_cut(boxes: Tensor, view: View, image: View) -> Tensor:
    """(n,) True = the box touches an edge of its view that is not an edge of the image."""
    edges, outer = boxes.new_tensor(view), boxes.new_tensor(image)
    return (((boxes - edges).abs() <= _EDGE) & (edges != outer)).any(1)


def _without_duplicates(found: InstanceData) -> InstanceData:
    if not len(found):
        return found
    return found[batched_nms(found.bboxes.float(), found.scores.float(), found.labels, _IOU_THR)]


def _is_covered(parts: InstanceData, whole: InstanceData) -> Tensor:
    """(n,) True = most of the area is inside a box of the same class in ``whole``."""
    covered = torch.zeros(len(parts), dtype=torch.bool, device=parts.scores.device)
    # One class after the other, which keeps the matrices of pairs small.
    for label in parts.labels.unique():
        mine, theirs = parts.labels == label, whole.labels == label
        boxes, others = parts.bboxes[mine], whole.bboxes[theirs]
        low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
        high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
        inner = (high - low).clamp(min=0).prod(-1)
        covered[mine] = (inner >= _COVERED * box_area(boxes)[:, None]).any(1)
    return covered
