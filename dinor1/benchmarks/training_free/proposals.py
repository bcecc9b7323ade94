"""Propose boxes without classes, from a grid, by OpenCV, or from a detector."""

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json

# Function from an image (H, W, 3) and its id to boxes (N, 4), (x1, y1, x2, y2) in pixels.
Proposals = Callable[[np.ndarray, int], np.ndarray]

SCALES = (0.8, 0.5, 0.32, 0.2, 0.125, 0.08)
RATIOS = (0.5, 1.0, 2.0)
STEP = 1 / 3


def sliding_windows(image: np.ndarray, image_id: int = 0) -> np.ndarray:
    """Propose a grid of windows of several sizes and shapes, at steps of at most a third of their sides.

    Args:
        image: (H, W, 3).
        image_id: Ignored.

    Returns:
        (N, 4) boxes, a few thousand.
    """
    height, width = image.shape[:2]
    found = []
    for scale in SCALES:
        for ratio in RATIOS:
            # All shapes have the same area: that of a square with a side of scale * sqrt(height * width).
            side = scale * (height * width) ** 0.5
            w, h = min(side * ratio**0.5, width), min(side / ratio**0.5, height)
            x, y = (_starts(length, window) for length, window in ((width, w), (height, h)))
            corners = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
            found.append(np.concatenate([corners, corners + [w, h]], 1))
    return np.unique(np.concatenate(found), axis=0)


def _starts(length: float, window: float) -> np.ndarray:
    """Evenly spaced start positions of windows from one end to the other."""
    count = int(np.ceil((length - window) / (window * STEP) - 1e-9)) + 1
    return np.linspace(0, length - window, count)


def selective_search(image: np.ndarray, image_id: int = 0) -> np.ndarray:
    """Propose boxes by OpenCV's selective search (Uijlings et al. 2013), in fast mode.

    Args:
        image: (H, W, 3) BGR.
        image_id: Ignored.

    Returns:
        (N, 4) boxes.

    Raises:
        InputError: OpenCV was built without its extra modules.
    """
    if not hasattr(cv2, 'ximgproc'):
        raise InputError(
            'selective search needs OpenCV with its extra modules; install opencv-contrib-python in place of '
            'opencv-python, or use sliding windows'
        )
    # Run the search.
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    search.switchToSelectiveSearchFast()
    boxes = np.asarray(search.process(), dtype=np.float64).reshape(-1, 4)
    # Convert xywh to xyxy.
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def boxes_of_results(path: str) -> Proposals:
    """Propose the boxes of a file of COCO results, such as those of a detector, without their classes.

    ``CocoPromptMetric`` writes such a file, with ``outfile_prefix``.

    Args:
        path: The file.

    Returns:
        Function that looks up the boxes of an image, without duplicates.

    Raises:
        InputError: the file is missing, or has no results.
    """
    # Collect the boxes of each image as xyxy; the inner dict keeps each box once, in the order of the file.
    found: dict[int, dict[tuple[float, ...], None]] = {}
    results = read_json(path)
    try:
        for result in results:
            x, y, w, h = result['bbox']
            found.setdefault(result['image_id'], {})[x, y, x + w, y + h] = None
    except (TypeError, KeyError, ValueError):
        raise InputError(f'{path}: not COCO results, a list of dicts with image_id, bbox and score') from None

    # An image without results has no proposals.
    def look_up(image: np.ndarray, image_id: int) -> np.ndarray:
        return np.array([*found.get(image_id, {})], dtype=np.float64).reshape(-1, 4)

    return look_up


SOURCES: Mapping[str, Proposals] = {'windows': sliding_windows, 'selective-search': selective_search}


def proposals_from(source: str) -> Proposals:
    """Return the proposals by the name of a method, or from a file.

    Args:
        source: One of :data:`SOURCES`, or a file of COCO results ending in ``.json``.

    Raises:
        InputError: there is no such source.
    """
    if source.endswith('.json'):
        return boxes_of_results(source)
    if source not in SOURCES:
        raise InputError(f'proposals: expected {", ".join(SOURCES)} or a file of results (.json), got {source!r}')
    return SOURCES[source]
