"""COCO's box AP as an MMEngine metric, computed by faster-coco-eval or pycocotools."""

import contextlib
import io
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import faster_coco_eval
import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import print_log

from dinor1.annotations import format_counts
from dinor1.annotations.instances import annotation_defects
from dinor1.annotations.merge import merge_coco
from dinor1.annotations.structure import fits_int64, is_finite
from dinor1.evaluation.detections import Detections, write_results
from dinor1.evaluation.evaluated_images import EvaluatedImage, SeenImages, check_unique, count_images, subset
from dinor1.evaluation.predictions import match_classes, validated_detections
from dinor1.registry import METRICS
from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json

# Name -> class that loads the content of a file, and class that evaluates detections.
BACKENDS = {
    'faster_coco_eval': (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    'pycocotools': (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval),
}
MAX_DETS = (1, 10, 100)
_AREAS = ('all', 's', 'm', 'l')
DETECTIONS_AT_ONCE = 2_000_000
# Defects of annotations that cannot be evaluated; others, such as a repeated id, do not matter here.
_UNUSABLE = ('wrong type', 'missing key', 'no box', 'malformed box', 'invalid iscrowd', 'invalid area', 'unknown image')


def coco_curves(
    content: dict, results: list[dict], category_ids: Sequence[int], backend: str = 'faster_coco_eval'
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall by the rules of COCO.

    Args:
        content: Content of the annotation file. The backends add fields to its annotations.
        results: Detections in COCO result format, on images of the file; may be empty.
        category_ids: Categories to evaluate.
        backend: Key of :data:`BACKENDS`; all give the same numbers.

    Returns:
        Precision (T, R, K, A, M) and recall (T, K, A, M) for 10 IoU thresholds, 101 recalls, the categories in
        ascending order of their ids, 4 area ranges (all, small, medium, large) and at most 1, 10 and 100 detections per
        image and category; -1 where there is no ground truth.
    """
    load, evaluate = BACKENDS[backend]
    # Both backends print their progress: suppress it.
    with contextlib.redirect_stdout(io.StringIO()):
        # Load ground truth and detections.
        truth = load()
        truth.dataset = content
        truth.createIndex()
        if results:
            found = truth.loadRes(results)
        else:  # pycocotools fails on an empty list
            found = load()
            found.dataset = content | {'annotations': []}
            found.createIndex()
        # Evaluate.
        evaluation = evaluate(truth, found, 'bbox')
        evaluation.params.catIds = list(category_ids)
        evaluation.params.maxDets = list(MAX_DETS)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval['precision'], evaluation.eval['recall']


def curves_in_parts(
    content: dict,
    detections: Detections,
    category_ids: np.ndarray,
    backend: str = 'faster_coco_eval',
    at_once: int = DETECTIONS_AT_ONCE,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute :func:`coco_curves` for a few categories at a time; categories are independent of each other.

    The backends need a dict of about a kilobyte per detection: tens of gigabytes for the 80,000 images of Objects365's
    validation set with 300 detections each.

    Args:
        content: Content of the annotation file.
        detections: ``image`` is an image id.
        category_ids: (K,) category id of each label.
        backend: See :func:`coco_curves`.
        at_once: Approximate number of detections in a part; a category is never split.

    Returns:
        As :func:`coco_curves`.
    """
    # Assign categories to parts, in ascending order of their ids.
    order = np.argsort(category_ids)
    part_of = np.bincount(detections.label, minlength=len(order))[order].cumsum() // at_once
    # Evaluate each part.
    curves = []
    for part in np.unique(part_of):
        labels = order[part_of == part]
        ids = category_ids[labels].tolist()
        known = frozenset(ids)
        own = content | {'annotations': [a for a in content['annotations'] if a['category_id'] in known]}
        found = detections.select(np.isin(detections.label, labels))
        curves.append(coco_curves(own, list(found.records(category_ids)), ids, backend))
    precisions, recalls = zip(*curves, strict=True)
    return np.concatenate(precisions, axis=2), np.concatenate(recalls, axis=1)


def summarize(precision: np.ndarray) -> dict[str, float]:
    """``mAP``, ``mAP_50``, ``mAP_75``, ``mAP_s``, ``mAP_m``, ``mAP_l`` in [0, 1]; -1 without ground truth.

    Args:
        precision: From :func:`coco_curves`.
    """
    precision = precision[..., -1]
    values = {'mAP': precision[..., 0], 'mAP_50': precision[0, ..., 0], 'mAP_75': precision[5, ..., 0]}
    values |= {f'mAP_{name}': precision[..., a] for a, name in enumerate(_AREAS) if a}
    valid = {name: value[value > -1] for name, value in values.items()}
    return {name: float(value.mean()) if value.size else -1.0 for name, value in valid.items()}


def read_coco(ann_file: str | Sequence[str], backend_args: dict | None = None) -> dict:
    """Read and check an annotation file, or merge several, see :func:`checked_coco`.

    Args:
        ann_file: The file, or files with the same categories, which are merged as in ``CocoPromptDataset``.
        backend_args: Arguments of MMEngine's file client.

    Raises:
        InputError: a file is missing or is not in COCO format, or their categories differ.
    """
    single = isinstance(ann_file, str | os.PathLike)
    files = [ann_file] if single else list(ann_file)
    contents = []
    for name in files:
        with get_local_path(name, backend_args=backend_args) as path:
            contents.append(read_json(path))
    # Merge even a list of one file, because the data set renumbers the images of a list.
    content = contents[0] if single else merge_coco(contents, files)
    return checked_coco(content, ', '.join(map(str, files)))


def checked_coco(content: dict, ann_file: str) -> dict:
    """Check the content of an annotation file, and add optional fields that the backends need.

    Args:
        content: Content of the file; it is changed in place.
        ann_file: The file, for messages.

    Returns:
        ``content``.

    Raises:
        InputError: the file is not in COCO format.
    """
    for section in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise InputError(f"{ann_file}: not a COCO file, it has no list '{section}'; give a file in COCO format")
    for section in ('images', 'categories'):
        ids = [record.get('id') if isinstance(record, dict) else None for record in content[section]]
        if not all(type(number) is int and fits_int64(number) for number in ids):
            raise InputError(
                f"{ann_file}: an entry of '{section}' has no id that is a whole number of 64 bits; number them"
            )
    # Leave out annotations without a valid box or with another defect of a value, as CocoPromptDataset does:
    # pycocotools would fail on them, or count a NaN box as missed.
    sizes = dict.fromkeys((image['id'] for image in content['images']), (math.inf, math.inf))
    defects = annotation_defects(content['annotations'], sizes, {category['id'] for category in content['categories']})
    unusable = {index for index, (kind, _) in defects.items() if kind in _UNUSABLE}
    if unusable:
        counts = format_counts(Counter(defects[index][0] for index in unusable))
        print_log(f'{ann_file}: left out of the ground truth: {counts}', logger='current', level=logging.WARNING)
    content['annotations'] = [
        annotation
        for index, annotation in enumerate(content['annotations'])
        if index not in unusable and isinstance(annotation, dict) and _has_box(annotation)
    ]
    for number, annotation in enumerate(content['annotations'], 1):
        # The backends store the id of the matched annotation: id 0 would mean no match.
        annotation['id'] = number
        # iscrowd and area are optional, as in CocoPromptDataset.
        annotation.setdefault('iscrowd', 0)
        if annotation.get('area') is None:
            annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
    return content


def _has_box(annotation: dict) -> bool:
    box = annotation.get('bbox')
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(number, int | float) and is_finite(number) for number in box)
    )


@METRICS.register_module()
class CocoPromptMetric(BaseMetric):
    """COCO's box AP with classes matched to categories by name.

    Differences from MMDetection's ``CocoMetric``:

    - faster-coco-eval computes the numbers, which equal those of pycocotools.
    - Label ``i`` is the category with the data set's ``i``-th class name. ``CocoMetric`` takes the ``i``-th of the
      file's categories that are among the class names, which is wrong if the classes are in another order.
    - All numbers follow the official definition, with at most 100 detections per image and category, and are not
      rounded. ``CocoMetric`` allows 1,000 detections in all of them except ``mAP``.
    - An image that is not in the file or that was evaluated before, or a class that the data set does not have, is an
      error in the first batch that has it.
    - A subset of the file's images, such as that of ``dataset.indices``, is scored on these images alone.

    Reports ``coco/bbox_mAP``, ``bbox_mAP_50``, ``bbox_mAP_75``, ``bbox_mAP_s``, ``bbox_mAP_m`` and ``bbox_mAP_l`` in
    [0, 1]; -1 without ground truth. For a subset also ``coco/images_evaluated`` and ``coco/images_in_file``.

    Args:
        ann_file: Annotations in COCO format; several files are merged, as by ``CocoPromptDataset``.
        backend: ``'faster_coco_eval'`` or ``'pycocotools'``.
        classwise: Also report AP of each class as ``CLASS_precision``; NaN without ground truth.
        outfile_prefix: Also write the detections to ``PREFIX.bbox.json``.
        format_only: Only write the detections, without evaluation.
        backend_args: Arguments of MMEngine's file client, to read ``ann_file``.
        kwargs: Arguments of MMEngine's ``BaseMetric``: ``collect_device``, ``prefix`` and ``collect_dir``.

    Raises:
        InputError: an argument is wrong, the annotation file is not in COCO format, classes or images of the data
            set are not in it, or an image is evaluated twice.
    """

    default_prefix = 'coco'

    def __init__(
        self,
        ann_file: str | Sequence[str],
        backend: str = 'faster_coco_eval',
        classwise: bool = False,
        outfile_prefix: str | None = None,
        format_only: bool = False,
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Check the arguments.
        if backend not in BACKENDS:
            raise InputError(f'CocoPromptMetric: backend must be one of {", ".join(BACKENDS)}, not {backend!r}')
        if format_only and outfile_prefix is None:
            raise InputError('CocoPromptMetric: format_only needs outfile_prefix, the path to write to')
        self.backend, self.classwise = backend, classwise
        self.ann_file = str(ann_file) if isinstance(ann_file, str | os.PathLike) else ', '.join(map(str, ann_file))
        self.outfile_prefix, self.format_only = outfile_prefix, format_only
        # Read the file before hours of inference, so that a bad file is an error immediately.
        self._content = read_coco(ann_file, backend_args)
        self._known = frozenset(image['id'] for image in self._content['images'])
        self._seen = SeenImages(self.ann_file)
        categories = sorted(self._content['categories'], key=lambda category: category['id'])
        self._ids = {category['name']: category['id'] for category in categories}

    def _classes(self) -> tuple[str, ...]:
        """Class names of the data set, which may choose some of the categories."""
        return tuple((self.dataset_meta or {}).get('classes', self._ids))

    @property
    def category_ids(self) -> np.ndarray:
        """Category id of each label, (K,)."""
        return np.array(list(self._ids.values()))[match_classes(self._classes(), list(self._ids), self.ann_file)]

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Collect the detections of a batch.

        Raises:
            InputError: a class or an image is not in the annotation file, an image was evaluated before, or a detection
                has an infinite or NaN value or an invalid class.
        """
        num_classes = len(self.category_ids)
        for sample in data_samples:
            found = validated_detections(sample, self._known, num_classes, self.ann_file)
            image = EvaluatedImage.of_sample(sample, found)
            self._seen.add(image)
            self.results.append(image)

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather the detections of all processes and compute the metrics; see MMEngine's ``BaseMetric``.

        Args:
            size: Number of images of the data set.
        """
        self._seen.clear()
        metrics: dict[str, float] = super().evaluate(size)
        return metrics

    def compute_metrics(self, results: list[EvaluatedImage]) -> dict[str, float]:
        """Metrics of the images of all processes.

        Raises:
            InputError: two processes evaluated the same image.
        """
        check_unique(((image.image_id, image.path) for image in results), self.ann_file)
        content = subset(self._content, [image.image_id for image in results])
        metrics = self.evaluate_detections(content, Detections.concatenate([image.detections for image in results]))
        return metrics | (count_images(len(results), len(self._known), self.ann_file) if metrics else {})

    def evaluate_detections(self, content: dict, detections: Detections) -> dict[str, float]:
        """Compute the metrics; subclasses report others.

        Args:
            content: Annotations of the images that were evaluated.
            detections: Their detections; ``image`` is an image id.
        """
        # Write the detections.
        names, ids = self._classes(), self.category_ids
        if self.outfile_prefix is not None:
            write_results(detections, ids, f'{self.outfile_prefix}.bbox.json')
        if self.format_only:
            return {}
        # Evaluate them.
        precision, _ = curves_in_parts(content, detections, ids, self.backend)
        summary = summarize(precision)
        line = (f'{name} {100 * value:.2f}' if value >= 0 else f'{name} -' for name, value in summary.items())
        print_log(', '.join(line), logger='current')
        metrics = {f'bbox_{name}': value for name, value in summary.items()}
        if self.classwise:
            # Reorder from ascending category ids to labels.
            per_class = precision[..., 0, -1].mean((0, 1))[np.argsort(np.argsort(ids))]
            metrics |= {
                f'{name}_precision': float(ap) if ap > -1 else float('nan')
                for name, ap in zip(names, per_class, strict=True)
            }
        return metrics
