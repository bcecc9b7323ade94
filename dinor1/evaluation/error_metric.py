"""Metric of class-agnostic average recall and of the causes of errors."""

from collections.abc import Sequence
from typing import Any

from mmengine.logging import print_log

from dinor1.evaluation.class_agnostic import class_agnostic_recall
from dinor1.evaluation.coco_metric import CocoPromptMetric
from dinor1.evaluation.detections import Detections
from dinor1.evaluation.error_split import DETECTION_CAUSES, OBJECT_CAUSES, error_split
from dinor1.evaluation.prompt_protocols import EvaluationPrompts, PromptedMetric
from dinor1.evaluation.without_exemplar import without_exemplars
from dinor1.registry import METRICS
from dinor1.utils.errors import InputError


@METRICS.register_module()
class ErrorMetric(CocoPromptMetric, PromptedMetric):
    """Causes of a detector's errors: wrong boxes, wrong classes and missed objects.

    Reports ``errors/AR_100``, the class-agnostic average recall of 100 boxes per image
    (:func:`~dinor1.evaluation.class_agnostic.class_agnostic_recall`), and ``errors/detection_CAUSE`` and
    ``errors/object_CAUSE`` of :mod:`~dinor1.evaluation.error_split`. Under ``VisualInteractive``, exemplars do not
    count in any of them, see :func:`~dinor1.evaluation.without_exemplar.without_exemplars`.

    Args:
        ann_file: Annotations in COCO format; several files are merged, as by ``CocoPromptDataset``.
        score_thr: Detections with lower scores are left out of the split of errors.
        backend: ``'faster_coco_eval'`` or ``'pycocotools'``.
        backend_args: Arguments of MMEngine's file client, to read ``ann_file``.
        kwargs: Arguments of MMEngine's ``BaseMetric``: ``collect_device``, ``prefix`` and ``collect_dir``.

    Raises:
        InputError: an argument is wrong, or the annotation file is not in COCO format.
    """

    default_prefix = 'errors'

    def __init__(
        self,
        ann_file: str | Sequence[str],
        score_thr: float = 0.3,
        backend: str = 'faster_coco_eval',
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(ann_file, backend, backend_args=backend_args, **kwargs)
        if not 0 <= score_thr <= 1:
            raise InputError(f'ErrorMetric: score_thr must be in [0, 1], got {score_thr}')
        self.score_thr = score_thr
        self._prompts: EvaluationPrompts | None = None

    def use_prompts(self, prompts: EvaluationPrompts) -> None:
        """Store the prompts, whose exemplars may be on the test images themselves."""
        self._prompts = prompts

    def evaluate_detections(self, content: dict, detections: Detections) -> dict[str, float]:
        """Metrics of the images that were evaluated."""
        ids, everything = self.category_ids, content
        # Leave out the exemplars, because the prompts show them.
        if self._prompts is not None and self._prompts.boxes:
            content, detections = without_exemplars(content, detections, self._prompts.boxes, ids)
        # Compute recall and causes of errors.
        recall = class_agnostic_recall(content, detections, self.backend)
        split = error_split(content, detections, ids, self.score_thr, context=everything)
        # Log the shares of the causes.
        for what, names in (('detection', DETECTION_CAUSES), ('object', OBJECT_CAUSES)):
            line = ', '.join(f'{name} {100 * split[f"{what}_{name}"]:.1f}' for name in names)
            print_log(f'{split[f"{what}s"]:.0f} {what}s: {line}', logger='current')
        return dict(AR_100=recall) | split
