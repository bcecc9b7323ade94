"""Drawings of training and evaluation samples: prepared images with their boxes and prompts."""

from collections.abc import Collection, Sequence

import numpy as np
from torch import Tensor

from .detections import draw_boxes
from .sheets import prompt_strip

_PROMPT = (255, 255, 255)


def prepared_image(inputs: Tensor) -> np.ndarray:
    """Convert an image from a pipeline, (3, H, W) and not normalised, to (H, W, 3) uint8."""
    return np.ascontiguousarray(inputs.permute(1, 2, 0).clamp(0, 255).byte().numpy())


def crop(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The part of ``image`` (H, W, 3) in a box of pixel xyxy; at least one pixel."""
    height, width = image.shape[:2]
    x1, y1 = min(max(int(box[0]), 0), width - 1), min(max(int(box[1]), 0), height - 1)
    x2, y2 = int(np.ceil(box[2])), int(np.ceil(box[3]))
    return image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]


def draw_truth(
    image: np.ndarray,
    bboxes: np.ndarray,
    labels: Sequence[int],
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    prompts: Collection[int] = (),
) -> np.ndarray:
    """Draw ground truth; boxes that serve as prompts get a white inner frame.

    Args:
        image: (H, W, 3) BGR uint8.
        bboxes: (n, 4) pixel xyxy.
        labels: n class indices; -1: ignored, drawn without a class.
        names: Class names.
        colors: BGR colours of the classes.
        prompts: Indices of the boxes that serve as prompts.
    """
    # Draw all boxes in the colours of their classes.
    captions = [names[i] if i >= 0 else 'ignored' for i in labels]
    captions = [f'{caption}: prompt' if i in prompts else caption for i, caption in enumerate(captions)]
    frames = [colors[i] if i >= 0 else (128, 128, 128) for i in labels]
    scale = max(1.0, 480 / max(image.shape[:2]))
    drawn = draw_boxes(image, bboxes, captions, frames, scale)
    # Add an inner frame to the prompts.
    chosen = np.asarray(bboxes, dtype=np.float64).reshape(-1, 4)[sorted(prompts)] * scale
    chosen += np.array([2, 2, -2, -2])
    return draw_boxes(drawn, chosen, [''] * len(chosen), [_PROMPT] * len(chosen), 1.0, thickness=1)


def with_strip(
    image: np.ndarray, crops: Sequence[np.ndarray], captions: Sequence[str], colors: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """Put the strip of an image's prompts above the image; without prompts, return the image unchanged."""
    return stack(prompt_strip(crops, captions, colors), image) if crops else image


def stack(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Put one image above the other; the narrower image is padded on the right."""
    width = max(upper.shape[1], lower.shape[1])
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=245) for p in (upper, lower)]
    return np.concatenate(padded)
