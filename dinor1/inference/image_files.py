"""Detection on image files, with a drawing and a JSON file for each image."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.utils import ProgressBar

from dinor1.inference.arguments import check_batch_size, class_thresholds
from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.inference.run_settings import request
from dinor1.utils.errors import InputError
from dinor1.utils.image_file import read_image
from dinor1.utils.io import write_image, write_json
from dinor1.visualization import class_colors, draw_boxes


class DetectionCount:
    """Number of detections per class, and the best score of classes without detections.

    Attributes:
        score_thr: Minimum score of a detection, for the report.
        num_images: Number of images counted so far.
        num_hits: Number of images with a detection.
        counts: Number of detections per class name.
        best: Highest score of a candidate per class name.
    """

    def __init__(self, score_thr: float) -> None:
        self.score_thr, self.num_images, self.num_hits = score_thr, 0, 0
        self.counts: Counter[str] = Counter()
        self.best: dict[str, float] = {}

    def add(self, names: Sequence[str], best_scores: Mapping[str, float]) -> None:
        """Count the detections of an image.

        Args:
            names: Class name of each detection.
            best_scores: Highest score of each class, detected or not.
        """
        for name, score in best_scores.items():
            self.best[name] = max(score, self.best.get(name, 0))
        self.counts.update(names)
        self.num_images += 1
        self.num_hits += len(names) > 0

    def include(self, other: 'DetectionCount') -> None:
        """Add the counts of other images."""
        for name, score in other.best.items():
            self.best[name] = max(score, self.best.get(name, 0))
        self.counts.update(other.counts)
        self.num_images += other.num_images
        self.num_hits += other.num_hits

    def report(self, names: Sequence[str]) -> str:
        """One line with the counts of all classes; if nothing was found, a second line says what to do."""
        parts = [f'{self.counts[n]} x {n}' + ('' if self.counts[n] else f' ({self._best_of(n)})') for n in names]
        line = f'Found on {self.num_hits} of {self.num_images} images: {", ".join(parts)}'
        if self.num_hits:
            return line
        return f'{line}\nNothing reaches --score-thr {self.score_thr:g}; try a lower one, or other or more prompts'

    def _best_of(self, name: str) -> str:
        return f'best score {self.best[name]:.3f}' if name in self.best else 'no candidate'


def output_paths(targets: Sequence[str], out_dir: Path) -> list[tuple[Path, Path]]:
    """Paths of the drawing and of the JSON file of each target, in ``vis`` and ``preds`` of a folder.

    A file is named after the stem of its target; targets that share a stem keep their suffix too, and those whose names
    still collide get a number.

    Raises:
        InputError: a drawing would overwrite a target.
    """
    # Name the files.
    stems = Counter(Path(target).stem for target in targets)
    names = [Path(t).stem if stems[Path(t).stem] == 1 else Path(t).name for t in targets]
    names = _unique(names)
    paths = [(out_dir / 'vis' / f'{name}.png', out_dir / 'preds' / f'{name}.json') for name in names]
    # Reject drawings that would replace a target.
    inputs = {Path(target).resolve() for target in targets}
    for drawing, _ in paths:
        if drawing.resolve() in inputs:
            raise InputError(f'--out-dir {out_dir}: {drawing} is a target and would be overwritten; choose another')
    return paths


def _unique(names: Sequence[str]) -> list[str]:
    """The names, with ``_2``, ``_3`` and so on appended to repetitions."""
    taken, unique = set(names), []
    for name in names:
        number, candidate = 1, name
        while candidate in unique or (number > 1 and candidate in taken):
            number += 1
            candidate = f'{name}_{number}'
        unique.append(candidate)
    return unique


def detect_files(
    inferencer: DINOR1Inferencer,
    targets: Sequence[str],
    outputs: Sequence[tuple[Path, Path]],
    score_thr: float = 0.3,
    batch_size: int = 8,
    **options: Any,
) -> DetectionCount:
    """Detect on image files with a progress bar, and write the results of each image.

    Args:
        inferencer: Inferencer with prompts.
        targets: Image files.
        outputs: Per target, the paths of drawing and JSON file, see :func:`output_paths`.
        score_thr: Minimum score of a detection, in [0, 1].
        batch_size: Maximum number of images per forward pass.
        **options: Further arguments of :meth:`~dinor1.inference.DINOR1Inferencer.predict`, such as ``nms_thr``.

    Returns:
        The number of detections per class.

    Raises:
        InputError: no prompts are set, an option is out of range, or an image cannot be read.
    """
    # Check the arguments.
    prompts, counts = inferencer.prompts, DetectionCount(score_thr)
    if prompts is None:
        raise InputError('no prompts are set: call set_prompts before detect_files')
    check_batch_size(batch_size)
    class_thresholds(score_thr, prompts)
    # Process the images in batches.
    bar = ProgressBar(len(targets), file=sys.stdout)
    try:
        for start in range(0, len(targets), batch_size):
            batch = slice(start, start + batch_size)
            samples: list[Any] = inferencer.predict(targets[batch], batch_size, score_thr, **options)
            # Count the detections, and write drawings and JSON files.
            for sample, (drawing, result) in zip(samples, outputs[batch], strict=True):
                counts.add(sample.pred_instances.label_names, sample.best_scores)
                record = inferencer.to_dict(sample)
                write_image(draw_record(read_image(sample.img_path), record, prompts.num_classes), drawing)
                write_json(record | request(prompts, score_thr, **options), result, indent=2)
            bar.update(len(samples))
    finally:
        print()  # The progress bar does not end its line.
    return counts


def draw_record(image: np.ndarray, record: Mapping[str, Any], num_classes: int) -> np.ndarray:
    """Draw detections on their image, the best one last, on top of the others.

    Args:
        image: (H, W, 3) BGR of uint8; not changed.
        record: Dict of :meth:`~dinor1.inference.DINOR1Inferencer.to_dict`.
        num_classes: Number of classes of the prompts.
    """
    colors = class_colors(num_classes)
    found = list(zip(record['bboxes'], record['names'], record['scores'], record['labels'], strict=True))[::-1]
    captions = [f'{name} {score:.2f}' for _, name, score, _ in found]
    boxes = np.array([box for box, *_ in found]).reshape(-1, 4)
    return draw_boxes(image, boxes, captions, [colors[label] for *_, label in found])
