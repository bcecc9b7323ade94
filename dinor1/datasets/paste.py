"""Copy-paste of instances by their boxes, between images of one source."""

import random
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.structures.bbox import HorizontalBoxes

from dinor1.datasets.mixing import ImageLoader, restrict_scope
from dinor1.registry import TRANSFORMS

_TRIES = 10  # positions that are tried for an instance


@TRANSFORMS.register_module()
class PasteInstances(BaseTransform):
    """Pastes instances of another image of the same source, cut out by their boxes, at random positions.

    Copy-paste (Ghiasi et al., arXiv 2012.07177) for annotations without masks: the border of a cut-out fades into the
    image. Put it after ``LoadAnnotations``. Crowds are not pasted, nor are boxes that contain more than ``max_overlap``
    of another box, whose object would be pasted without a box. The result counts as annotated for the classes for which
    both images were annotated.

    Args:
        prob: Probability of pasting.
        max_instances: Maximum number of instances, at least 1.
        scale_range: Size of a pasted instance relative to the original, drawn on a logarithmic scale.
        max_overlap: Maximum share of a box of the image that a pasted instance may cover, and of another box that a
            cut-out may contain, in [0, 1].
        fade: Width of the faded border, relative to the shorter side of the cut-out, in [0, 0.5].
    """

    def __init__(
        self,
        prob: float = 0.5,
        max_instances: int = 2,
        scale_range: tuple[float, float] = (0.5, 1.5),
        max_overlap: float = 0.3,
        fade: float = 0.1,
    ) -> None:
        self.prob, self.max_instances, self.scale_range = prob, max_instances, scale_range
        self.max_overlap, self.fade = max_overlap, fade
        self.load = ImageLoader()

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Paste instances that fit into the image."""
        if random.random() >= self.prob:
            return results
        # Draw another image, and find the instances that can be cut out.
        (other,) = self.load(results, 1)
        boxes, labels = other['gt_bboxes'].tensor.numpy(), other['gt_bboxes_labels']
        candidates = [i for i in range(len(boxes)) if not other['gt_ignore_flags'][i] and self._alone(boxes, i)]
        image, taken = results['img'].copy(), results['gt_bboxes'].tensor.numpy()
        # Paste some of them.
        pasted, pasted_labels = [], []
        for i in random.sample(candidates, min(len(candidates), random.randint(1, self.max_instances))):
            box = self._paste(image, other['img'], boxes[i], np.concatenate([taken, *pasted]))
            if box is not None:
                pasted.append(box[None])
                pasted_labels.append(labels[i])
        if not pasted:
            return results
        # Add their boxes.
        results['img'] = image
        results['gt_bboxes'] = HorizontalBoxes(np.concatenate([taken, *pasted]))
        results['gt_bboxes_labels'] = np.append(results['gt_bboxes_labels'], pasted_labels).astype(np.int64)
        results['gt_ignore_flags'] = np.append(results['gt_ignore_flags'], [False] * len(pasted)).astype(bool)
        restrict_scope(results, [other])
        return results

    def _alone(self, boxes: np.ndarray, index: int) -> bool:
        """Whether a box contains at most ``max_overlap`` of each other box."""
        return bool((_covered(np.delete(boxes, index, 0), boxes[index]) <= self.max_overlap).all())

    def _paste(self, image: np.ndarray, other: np.ndarray, box: np.ndarray, taken: np.ndarray) -> np.ndarray | None:
        """Paste the part ``box`` of another image.

        Args:
            image: (H, W, 3), changed in place.
            other: (H', W', 3), the image to cut from.
            box: (4,) pixel xyxy.
            taken: (n, 4) boxes of the image.

        Returns:
            (4,) new box; None if it does not fit anywhere.
        """
        # Cut out and resize.
        left, top = np.floor(box[:2]).astype(int).clip(0)
        right, bottom = np.ceil(box[2:]).astype(int)
        cut = other[top:bottom, left:right]
        low, high = np.log(self.scale_range)
        scale = float(np.exp(random.uniform(low, high)))
        width, height = (max(2, round(side * scale)) for side in (cut.shape[1], cut.shape[0]))
        if not cut.size or width > image.shape[1] or height > image.shape[0]:
            return None
        cut = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        # Find a position that covers little of the other boxes.
        for _ in range(_TRIES):
            x, y = random.randint(0, image.shape[1] - width), random.randint(0, image.shape[0] - height)
            place = np.array([x, y, x + width, y + height], dtype=np.float32)
            if (_covered(taken, place) <= self.max_overlap).all():
                break
        else:
            return None
        # Blend it into the image.
        border = self.fade * min(width, height)
        weight = np.minimum(_ramp(height, border)[:, None], _ramp(width, border))
        part = image[y : y + height, x : x + width]
        part[:] = np.rint(part + weight[..., None] * (cut.astype(np.float32) - part)).astype(image.dtype)
        return place


def _covered(boxes: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """(n,) share of each box (n, 4) that lies within ``cover`` (4,), pixel xyxy."""
    sides = np.minimum(boxes[:, 2:], cover[2:]) - np.maximum(boxes[:, :2], cover[:2])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return sides.clip(0).prod(1) / area.clip(1e-6)


def _ramp(length: int, border: float) -> np.ndarray:
    """(length,) weights: 1 inside, falling to 0 over ``border`` pixels at both ends."""
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    return (distance / max(border, 0.5)).clip(0, 1)
