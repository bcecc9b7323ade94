"""LVIS evaluation as an MMEngine metric: standard AP and fixed AP in one run."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mmengine.dist import get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import print_log

from dinor1.annotations.federated import as_lvis
from dinor1.annotations.training_check import check_for_training
from dinor1.evaluation.detections import Detections, write_results
from dinor1.evaluation.evaluated_images import EvaluatedImage, SeenImages, check_unique, count_images
from dinor1.evaluation.lvis_eval import evaluate_lvis
from dinor1.evaluation.lvis_ground_truth import LVISGroundTruth
from dinor1.evaluation.predictions import match_classes, validated_detections
from dinor1.registry import METRICS
from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json

REPORTED = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'APr', 'APc', 'APf')


@dataclass
class _Part:
    """Results of one process: ids and paths of its images in the order of evaluation, and their detections."""

    images: list[tuple[int, str]]
    detections: Detections


@METRICS.register_module()
class LVISFixedMetric(BaseMetric):
    """Standard and fixed AP on LVIS v1 (val, minival) and other federated data sets with frequencies.

    Reports ``lvis/AP``, AP50, AP75, APs, APm, APl, APr, APc and APf in [0, 1] for the ``max_per_image`` best detections
    of each image; and ``lvis/fixed_AP`` and so on for the ``budget`` best detections of each class over the whole set,
    without a limit per image (Dave et al. 2021, arXiv 2102.01066). -1 means no ground truth. The numbers equal those of
    the ``lvis`` package.

    A COCO file with ``sources`` (federated labels, see :mod:`dinor1.annotations.federated`) is evaluated in the same
    way: an image for the categories of its own source only. All of its categories count as frequent, unless it says
    otherwise.

    A subset of the images, such as that of ``dataset.indices``, is scored on these images alone; then
    ``lvis/images_evaluated`` and ``lvis/images_in_file`` are reported too. An image that is evaluated twice is an
    error, except the repetitions with which a distributed sampler fills its last batch. Classes are matched to
    categories by name.

    Memory: only detections that can still affect the result are kept, at most ``budget`` of each class and
    ``max_per_image`` of each image, 44 bytes each, and up to ``prune_every`` new ones.

    Args:
        ann_file: Annotations in LVIS format, or in COCO format with ``sources``.
        max_per_image: Maximum number of detections per image in standard AP.
        budget: Maximum number of detections per class in fixed AP. Fixed AP is comparable only if the detector does not
            limit the detections of an image to ``max_per_image`` first.
        outfile_prefix: Also write the evaluated detections in COCO result format, to ``PREFIX.bbox.json`` and, for
            fixed AP, to ``PREFIX.fixed.bbox.json``.
        prune_every: Number of new detections after which those that can no longer affect the result are removed.
        not_exhaustive: Names of the sources whose annotations miss instances; True: every source.
        backend_args: Arguments of MMEngine's file client, to read ``ann_file``.
        kwargs: Arguments of MMEngine's ``BaseMetric``: ``collect_device``, ``prefix``, ``collect_dir``.

    Raises:
        InputError: the annotation file is not in LVIS format, classes or images of the data set are not in it, an image
            is evaluated twice, or a number of detections is not positive.
    """

    default_prefix = 'lvis'

    def __init__(
        self,
        ann_file: str,
        max_per_image: int = 300,
        budget: int = 10_000,
        outfile_prefix: str | None = None,
        prune_every: int = 2_000_000,
        not_exhaustive: bool | Sequence[str] = False,
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if min(max_per_image, budget) < 1:
            raise InputError(f'max_per_image and budget must be positive, got {max_per_image} and {budget}')
        self.max_per_image, self.budget, self.outfile_prefix = max_per_image, budget, outfile_prefix
        self.prune_every = prune_every
        # Read the file before hours of inference, so that a bad file is an error immediately.
        with get_local_path(ann_file, backend_args=backend_args) as path:
            content = read_json(path)
        # Convert a file that was merged from several sources.
        if isinstance(content, dict) and 'sources' in content:
            check_for_training(content, ann_file)
            content = as_lvis(content, ann_file, not_exhaustive)
        self._truth = LVISGroundTruth.from_content(content, ann_file)
        self._known = frozenset(self._truth.image_ids.tolist())
        self._seen = SeenImages(self._truth.path)
        self._size = 0
        self._clear()

    @property
    def num_collected(self) -> int:
        """Number of detections that are in memory."""
        return self._rows

    def _clear(self) -> None:
        self._seen.clear()
        self._images: list[tuple[int, str]] = []
        self._parts: list[Detections] = []
        self._rows, self._limit = 0, self.prune_every

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Collect the detections of a batch.

        Raises:
            InputError: a class or an image is not in the annotation file, an image was evaluated before, or a detection
                has an infinite or NaN value or an invalid class.
        """
        # Check the classes in the first batch, not after the last.
        num_classes = len(match_classes(self._classes(), self._truth.names, self._truth.path))
        # Collect the images.
        for sample in data_samples:
            found = validated_detections(sample, self._known, num_classes, self._truth.path)
            image = EvaluatedImage.of_sample(sample, found)
            self._seen.add(image)
            self._images.append((image.image_id, image.path))
            self._parts.append(found)
            self._rows += len(found)
        # Remove detections that can no longer affect the result.
        if self._rows > self._limit:
            kept = self._prune(Detections.concatenate(self._parts))
            self._parts, self._rows, self._limit = [kept], len(kept), len(kept) + self.prune_every

    def _classes(self) -> tuple[str, ...]:
        """Class names of the data set, which may choose some of the categories."""
        return tuple((self.dataset_meta or {}).get('classes', self._truth.names))

    def _prune(self, detections: Detections) -> Detections:
        """Keep only detections that can affect standard or fixed AP."""
        return detections.select((detections.rank < self.max_per_image) | detections.within_budget(self.budget))

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather the detections of all processes and compute the metrics; see MMEngine's ``BaseMetric``.

        Args:
            size: Number of images of the data set.
        """
        detections = self._prune(Detections.concatenate(self._parts))
        self.results = [_Part(self._images, detections)]
        self._size = size
        self._clear()
        # MMEngine truncates the gathered list to `size` entries; this list has one entry per process.
        return super().evaluate(max(size, get_world_size()))

    def compute_metrics(self, results: list[_Part]) -> dict[str, float]:
        """Metrics of the detections of all processes.

        Raises:
            InputError: two processes evaluated the same image.
        """
        # Merge the results of the processes.
        images, detections = _merge(results, self._size)
        check_unique(images, self._truth.path)
        truth = self._truth.select(self._classes()).of_images([image_id for image_id, _ in images])
        # The warning stands before the table.
        counts = count_images(len(images), len(self._known), self._truth.path)
        # Choose and write the detections of standard and fixed AP.
        standard = detections.select(detections.rank < self.max_per_image)
        fixed = detections.select(detections.within_budget(self.budget))
        if self.outfile_prefix is not None:
            write_results(standard, truth.category_ids, f'{self.outfile_prefix}.bbox.json')
            write_results(fixed, truth.category_ids, f'{self.outfile_prefix}.fixed.bbox.json')
        # Evaluate.
        metrics = {}
        for prefix, chosen in (('', standard), ('fixed_', fixed)):
            indexed = replace(chosen, image=np.searchsorted(truth.image_ids, chosen.image))
            summary = evaluate_lvis(truth, indexed).summary()
            metrics |= {prefix + name: summary[name] for name in REPORTED}
        # Log a table.
        rows = [' ' * 8 + ''.join(f'{name:>7}' for name in REPORTED)]
        for title, prefix in (('standard', ''), ('fixed', 'fixed_')):
            values = (metrics[prefix + name] for name in REPORTED)
            rows.append(f'{title:8}' + ''.join(f'{100 * v:7.2f}' if v >= 0 else '      -' for v in values))
        print_log('\n' + '\n'.join(rows), logger='current')
        return metrics | counts


def _merge(parts: Sequence[_Part], size: int) -> tuple[list[tuple[int, str]], Detections]:
    """Images and detections of all processes, without the repetitions that fill the last batch of a sampler.

    As in MMEngine's ``collect_results``, the images of the processes alternate, and the first ``size``
    of them count.
    """
    # Put the images in the order of the data set.
    turns = itertools.zip_longest(*(part.images for part in parts))
    dealt = [(rank, image) for turn in turns for rank, image in enumerate(turn) if image is not None]
    kept, surplus = dealt[:size], dealt[size:]
    # Leave out the detections of repeated images.
    detections = []
    for rank, part in enumerate(parts):
        repeated = [image_id for other, (image_id, _) in surplus if other == rank]
        detections.append(part.detections.select(~np.isin(part.detections.image, repeated)))
    return [image for _, image in kept], Detections.concatenate(detections)
