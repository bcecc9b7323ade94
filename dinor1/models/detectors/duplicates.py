"""Non-maximum suppression of detections; a detector of set predictions needs it only where duplicates disturb."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

from mmengine.structures import InstanceData
from torchvision.ops import batched_nms, nms

from dinor1.utils.dataclass_config import with_defaults
from dinor1.utils.errors import InputError


@dataclass(frozen=True)
class DuplicateRemoval:
    """Settings of the non-maximum suppression, with the names of MMDetection's ``nms``.

    Attributes:
        type: ``'nms'``, the only kind.
        iou_threshold: A detection is removed if its IoU with one of a higher score is larger, in [0, 1]; 1: none is
            removed.
        class_agnostic: Whether detections of different classes remove each other too.

    Raises:
        InputError: a value is out of range.
    """

    type: str = 'nms'
    iou_threshold: float = 0.7
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        if self.type != 'nms':
            raise InputError(f"nms: type must be 'nms', got {self.type!r}")
        is_number = isinstance(self.iou_threshold, Real) and not isinstance(self.iou_threshold, bool)
        if not is_number or not 0 <= self.iou_threshold <= 1:
            raise InputError(f'nms: the IoU threshold must be a number in [0, 1], got {self.iou_threshold!r}')
        if not isinstance(self.class_agnostic, bool):
            raise InputError(f'nms: class_agnostic must be True or False, got {self.class_agnostic!r}')


def duplicate_removal(given: Mapping[str, Any] | None) -> DuplicateRemoval | None:
    """Settings from ``test_cfg.nms``; None: no suppression.

    Raises:
        InputError: a key is unknown, or a value is out of range.
    """
    return None if given is None else with_defaults(given, DuplicateRemoval(), 'model.test_cfg.nms')


@contextmanager
def duplicates_kept(model: Any) -> Iterator[None]:
    """Let a detector return duplicates although its config removes them, to remove them later by another rule.

    Args:
        model: A :class:`~dinor1.models.DINOR1`.
    """
    before, model.duplicate_removal = model.duplicate_removal, None
    try:
        yield
    finally:
        model.duplicate_removal = before


def remove_duplicates(instances: InstanceData, settings: DuplicateRemoval | None) -> InstanceData:
    """Remove detections that overlap one of a higher score, greedily by descending score.

    Args:
        instances: ``bboxes`` (n, 4) pixel xyxy, ``scores`` (n,), ``labels`` (n,), and any other fields.
        settings: IoU threshold, and whether classes are compared; None: nothing is removed.

    Returns:
        The remaining detections, by descending score.
    """
    # A threshold of 1 removes nothing, not even boxes that are equal.
    if settings is None or settings.iou_threshold >= 1 or not len(instances):
        return instances
    boxes, scores = instances.bboxes.float(), instances.scores.float()
    if settings.class_agnostic:
        return instances[nms(boxes, scores, settings.iou_threshold)]
    return instances[batched_nms(boxes, scores, instances.labels, settings.iou_threshold)]
