"""Regions of reference images that show what to find: boxes, points or masks, all of which become boxes."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from dinor1.utils.errors import InputError

from .visual_prompt import as_boxes, clip_boxes, has_boolean, scale_boxes

# Side of the box around a point, as a fraction of the shorter side of the image.
POINT_SIDE = 0.05


def as_regions(regions: Any, where: str, normalized: bool = False) -> np.ndarray:
    """Check boxes, points or masks before their image is read.

    Args:
        regions: Boxes (m, 4) or (4,) pixel xyxy; points (m, 2) or (2,) pixel xy; or masks (m, H, W) or (H, W) of bool,
            of the size of the image.
        where: Name of the image, for error messages.
        normalized: Whether boxes are given in parts of width and height; points and masks are always in pixels.

    Returns:
        (m, 4) or (m, 2) of float64, or (m, H, W) of bool; m >= 1.

    Raises:
        InputError: there is no region, a number is not finite, a box has no area, a mask is empty, or boxes or points
            look normalised because their numbers are at most 1.
    """
    if isinstance(regions, Tensor):
        regions = regions.detach().cpu().numpy()
    # Masks are recognised by their type.
    if isinstance(regions, np.ndarray) and regions.dtype == bool and regions.ndim > 1:
        masks = regions[None] if regions.ndim == 2 else regions
        if masks.ndim != 3 or not len(masks):
            raise InputError(f'{where}: expected masks (m, H, W) of bool, at least one, got shape {regions.shape}')
        if not masks.any(axis=(1, 2)).all():
            raise InputError(f'{where}: mask {int(np.argmin(masks.any(axis=(1, 2))))} is empty; leave it out')
        return masks
    # Points have two numbers.
    try:
        if has_boolean(regions):
            raise TypeError
        array = np.atleast_2d(np.asarray(regions, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):  # as_boxes raises an error that describes the problem
        return as_boxes(regions, where, normalized)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        return as_boxes(regions, where, normalized)
    # Check the numbers.
    if normalized:
        raise InputError(f'{where}: points are pixels x,y; give boxes, or points without --normalized')
    if not np.isfinite(array).all():
        raise InputError(f'{where}: point {tuple(map(float, array[0]))} is not two finite numbers x, y')
    for x, y in array:
        if max(x, y) <= 1:
            raise InputError(
                f'{where}: points are pixels x,y, and both numbers of point ({x:g}, {y:g}) are at most 1; multiply '
                'them by width and height'
            )
    return array


def region_boxes(regions: np.ndarray, image_size: tuple[int, int], where: str, normalized: bool = False) -> np.ndarray:
    """Boxes (m, 4) pixel xyxy of regions, clipped to the image.

    A point becomes a square around it, with sides of :data:`POINT_SIDE` of the shorter side of the image and at least
    two pixels. A mask becomes the smallest box that contains it.

    Args:
        regions: From :func:`as_regions`.
        image_size: Height and width in pixels.
        where: Name of the image, for error messages.
        normalized: Whether boxes are given in parts of width and height.

    Raises:
        InputError: a box or a point leaves the image, or a mask has another size.
    """
    height, width = image_size
    if regions.dtype == bool:
        if regions.shape[1:] != (height, width):
            raise InputError(
                f'{where}: masks of {regions.shape[2]} x {regions.shape[1]} pixels on an image of {width} x {height}; '
                'give masks of the size of the image'
            )
        # The maximum is the index of the last pixel, and a box ends after this pixel.
        boxes = masks_to_boxes(torch.from_numpy(np.ascontiguousarray(regions))).double().numpy()
        return boxes + [0, 0, 1, 1]
    if normalized:
        return scale_boxes(regions, (height, width), where)
    if regions.shape[1] == 4:
        return clip_boxes(regions, (height, width), where)
    # Draw a square around each point.
    for point in regions:
        if not ((point >= 0) & (point <= [width, height])).all():
            raise InputError(
                f'{where}: point ({point[0]:g}, {point[1]:g}) leaves the image of {width} x {height} pixels; give '
                'pixels of this image'
            )
    half = max(2.0, POINT_SIDE * min(height, width)) / 2
    boxes = np.concatenate([regions - half, regions + half], axis=1)
    return boxes.clip(0, [width, height, width, height])
