"""Detections of a whole data set as arrays, with a budget per class and writing of COCO result files."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from dinor1.utils.io import atomic_path

RECORDS_AT_ONCE = 100_000


@dataclass
class Detections:
    """N detections.

    Attributes:
        image: (N,) integer, id or index of the image; each function documents which one it expects.
        label: (N,) integer, index of the class.
        score: (N,) float, larger is better.
        box: (N, 4) float, (x, y, width, height) in pixels of the original image.
        rank: (N,) integer, index among the detections of its image in descending order of score, from 0.
    """

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray
    rank: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def of_image(cls, image: int, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> 'Detections':
        """The detections of one image, best first; equal scores keep their order.

        Args:
            image: Image id.
            boxes: (N, 4), (x1, y1, x2, y2) in pixels.
            scores: (N,).
            labels: (N,).
        """
        order = np.argsort(-scores, kind='stable')
        # float64 represents the difference of two float32 corners exactly, as in a file of results.
        box = boxes[order].astype(np.float64)
        box[:, 2:] -= box[:, :2]
        count = len(order)
        image, rank = np.full(count, image, dtype=np.int64), np.arange(count, dtype=np.int32)
        return cls(image, labels[order].astype(np.int32), scores[order], box, rank)

    @classmethod
    def concatenate(cls, parts: Sequence['Detections']) -> 'Detections':
        """All detections of ``parts``, in their order."""
        if not parts:
            return cls.of_image(0, np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64))
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def select(self, rows: np.ndarray) -> 'Detections':
        """The detections chosen by a mask or by indices."""
        return Detections(*(getattr(self, field.name)[rows] for field in fields(self)))

    def records(self, category_ids: np.ndarray) -> Iterator[dict]:
        """The detections in COCO result format.

        Args:
            category_ids: (K,) category id of each class. ``image`` must be an image id.
        """
        columns = (self.image, category_ids[self.label], self.box, self.score.astype(np.float64))
        for image, category, box, score in zip(*(column.tolist() for column in columns), strict=True):
            yield dict(image_id=image, category_id=category, bbox=box, score=score)

    def within_budget(self, budget: int) -> np.ndarray:
        """Mask (N,) of the ``budget`` best of each class over all images.

        Equal scores are ordered by image id, and within an image by rank, so that the choice does not depend on the
        order of the images.
        """
        inside = np.ones(len(self), dtype=bool)
        counts = np.bincount(self.label)
        rows = np.flatnonzero((counts > budget)[self.label]) if len(self) else np.arange(0)
        # Sort the detections of classes above the budget, and keep the best.
        label = self.label[rows]
        order = np.lexsort((self.rank[rows], self.image[rows], -self.score[rows], label))
        starts = np.searchsorted(label[order], np.arange(len(counts)))
        position = np.arange(len(rows)) - starts[label[order]]
        inside[rows[order]] = position < budget
        return inside


def write_results(detections: Detections, category_ids: np.ndarray, path: str | os.PathLike) -> None:
    """Write detections atomically as a COCO result file, which the ``lvis`` package reads too.

    Args:
        detections: ``image`` is an image id.
        category_ids: (K,) category id of each class.
        path: JSON file to write.
    """
    with atomic_path(path) as temporary, temporary.open('w') as file:
        file.write('[')
        # Write in parts: a list of all records would need a hundred times the memory of the arrays.
        for start in range(0, len(detections), RECORDS_AT_ONCE):
            part = detections.select(slice(start, start + RECORDS_AT_ONCE))
            lines = ',\n'.join(map(json.dumps, part.records(category_ids)))
            file.write((',\n' if start else '\n') + lines)
        file.write('\n]\n')
