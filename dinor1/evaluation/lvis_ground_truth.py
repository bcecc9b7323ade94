"""LVIS annotations as arrays: boxes, and the categories that were annotated in each image."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mmengine.logging import print_log

from dinor1.annotations.structure import fits_int64
from dinor1.evaluation.predictions import match_classes
from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json

# Rare, common and frequent: in 1 to 10, 11 to 100 or more than 100 images of the training set.
FREQUENCIES = 'rcf'

_LISTS = ('neg_category_ids', 'not_exhaustive_category_ids')


@dataclass(frozen=True)
class LVISGroundTruth:
    """The ground truth of a federated data set (Gupta et al. 2019, arXiv 1908.03195, Section 2).

    There are I images, K classes and G boxes. Boxes without area are left out, as in the ``lvis`` package,
    with a warning.

    Attributes:
        path: The annotation file, for messages.
        image_ids: (I,) int64, ascending.
        category_ids: (K,) int64; class k has the id ``category_ids[k]``.
        names: K class names.
        frequency: (K,) int64, index into :data:`FREQUENCIES`.
        judged: (I, K) bool. True: the class has a box in the image or is known to be absent from it. Detections of
            other classes are not evaluated there.
        not_exhaustive: (I, K) bool. True: some instances have no box, so that an unmatched detection is not an error.
        image: (G,) int64, index of the image.
        label: (G,) int64, index of the class.
        box: (G, 4) float64, (x, y, width, height) in pixels.
        area: (G,) float64, area of the annotated mask in square pixels.
        ignore: (G,) bool. True: finding the box is neither right nor wrong.
    """

    path: str
    image_ids: np.ndarray
    category_ids: np.ndarray
    names: tuple[str, ...]
    frequency: np.ndarray
    judged: np.ndarray
    not_exhaustive: np.ndarray
    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    area: np.ndarray
    ignore: np.ndarray

    @classmethod
    def read(cls, path: str | os.PathLike) -> 'LVISGroundTruth':
        """Read an annotation file; classes are in the order of their ids.

        Raises:
            InputError: the file is missing, is not in LVIS format, or contradicts itself.
        """
        return cls.from_content(read_json(path), str(path))

    @classmethod
    def from_content(cls, content: Any, path: str = 'annotations') -> 'LVISGroundTruth':
        """Convert the content of an annotation file.

        Raises:
            InputError: the content is not in LVIS format, or contradicts itself.
        """
        # Images and classes, in the order of their ids.
        images, annotations, categories = _sections(content, path)
        categories = sorted(categories, key=lambda category: category['id'])
        image_ids = np.unique(_ids(images, 'id', path, 'images'))
        category_ids = np.array([category['id'] for category in categories], dtype=np.int64)
        size = (len(image_ids), len(category_ids))

        # Boxes with an area.
        image = _index(image_ids, _ids(annotations, 'image_id', path, 'annotations'), path, 'image')
        label = _index(category_ids, _ids(annotations, 'category_id', path, 'annotations'), path, 'category')
        try:
            box = np.array([annotation['bbox'] for annotation in annotations], dtype=np.float64)
            box = box.reshape(len(annotations), 4)
            area = np.array([annotation['area'] for annotation in annotations], dtype=np.float64)
            if not (np.isfinite(box).all() and np.isfinite(area).all()):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(
                f"{path}: an annotation has no 'bbox' of four numbers or no 'area', or they are not finite; correct it"
            ) from None
        ignore = np.array([bool(annotation.get('ignore', 0)) for annotation in annotations], dtype=bool)
        kept = area > 0
        if not kept.all():
            print_log(
                f'{path}: {(~kept).sum():,} of {len(kept):,} annotations have an area that is not positive, and are '
                'left out of the ground truth as in the lvis package; `dinor1 validate --fix` writes that of their box',
                logger='current',
                level=logging.WARNING,
            )
        image, label, box, area, ignore = (column[kept] for column in (image, label, box, area, ignore))
        # Classes that were annotated in each image.
        judged, not_exhaustive = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        _mark(judged, 'neg_category_ids', images, image_ids, category_ids, path)
        _mark(not_exhaustive, 'not_exhaustive_category_ids', images, image_ids, category_ids, path)
        judged[image, label] = True
        frequency = np.array([FREQUENCIES.index(category['frequency']) for category in categories], dtype=np.int64)
        names = tuple(category['name'] for category in categories)
        return cls(
            path, image_ids, category_ids, names, frequency, judged, not_exhaustive, image, label, box, area, ignore
        )

    def select(self, names: Sequence[str]) -> 'LVISGroundTruth':
        """Ground truth of the classes ``names`` alone, with labels in this order.

        Raises:
            InputError: a name is not in the file, or is given twice.
        """
        names = tuple(names)
        if names == self.names:
            return self
        # Map old labels to new ones.
        chosen = match_classes(names, self.names, self.path)
        new_label = np.full(len(self.names), -1)
        new_label[chosen] = np.arange(len(chosen))
        # Keep the boxes of the chosen classes.
        kept = new_label[self.label] >= 0
        return replace(
            self,
            category_ids=self.category_ids[chosen],
            names=names,
            frequency=self.frequency[chosen],
            judged=self.judged[:, chosen],
            not_exhaustive=self.not_exhaustive[:, chosen],
            image=self.image[kept],
            label=new_label[self.label[kept]],
            box=self.box[kept],
            area=self.area[kept],
            ignore=self.ignore[kept],
        )

    def of_images(self, image_ids: Sequence[int]) -> 'LVISGroundTruth':
        """Ground truth of some of the images.

        Args:
            image_ids: Their ids, in any order; each is in :attr:`image_ids`.
        """
        known = np.isin(self.image_ids, np.array(image_ids, dtype=np.int64))
        if known.all():
            return self
        # Map old indices of images to new ones, and keep their boxes.
        new_index = np.cumsum(known) - 1
        kept = known[self.image]
        return replace(
            self,
            image_ids=self.image_ids[known],
            judged=self.judged[known],
            not_exhaustive=self.not_exhaustive[known],
            image=new_index[self.image[kept]],
            label=self.label[kept],
            box=self.box[kept],
            area=self.area[kept],
            ignore=self.ignore[kept],
        )


def _sections(content: Any, path: str) -> tuple[list[dict], list[dict], list[dict]]:
    """Return images, annotations and categories, and check the fields that the evaluation reads."""
    # All sections.
    sections = []
    for name in ('images', 'annotations', 'categories'):
        records = content.get(name) if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise InputError(f"{path}: not an LVIS file, it has no list '{name}'; give a file in LVIS format")
        if not records and name != 'annotations':
            raise InputError(f"{path}: '{name}' is empty; an evaluation needs at least one entry there")
        values = _ids(records, 'id', path, name)
        if len(np.unique(values)) < len(values):
            raise InputError(f"{path}: an id occurs more than once in '{name}'; make ids unique")
        sections.append(records)
    # Lists of images.
    images, annotations, categories = sections
    for key in _LISTS:
        for image in images:
            if not isinstance(image.get(key), list):
                raise InputError(
                    f"{path}: image {image['id']} has no list '{key}', which federated evaluation needs; "
                    'give a file in LVIS format, or evaluate with CocoPromptMetric'
                )
    # Names and frequencies of categories.
    for category in categories:
        if not isinstance(category.get('name'), str):
            raise InputError(f"{path}: category {category['id']} has no 'name'; add it")
        if category.get('frequency') not in tuple(FREQUENCIES):
            raise InputError(
                f"{path}: category {category['id']} ({category['name']}) has no 'frequency' r, c or f, which APr, APc "
                'and APf need; give a file in LVIS format, or evaluate with CocoPromptMetric'
            )
    return images, annotations, categories


def _ids(records: list[dict], key: str, path: str, section: str) -> np.ndarray:
    values = [record.get(key) for record in records]
    for index, value in enumerate(values):
        if type(value) is not int or not fits_int64(value):
            raise InputError(f"{path}: entry {index} of '{section}' has no integer '{key}' of 64 bits; correct it")
    return np.array(values, dtype=np.int64)


def _index(known: np.ndarray, ids: np.ndarray, path: str, what: str) -> np.ndarray:
    """Indices of ``ids`` in ``known``, which is ascending."""
    index = np.searchsorted(known, ids).clip(max=len(known) - 1)
    unknown = known[index] != ids
    if unknown.any():
        raise InputError(
            f'{path}: an annotation refers to {what} {ids[unknown][0]}, which the file does not list '
            f'({unknown.sum()} such annotations); add it or remove them'
        )
    return index


def _mark(
    table: np.ndarray, key: str, images: list[dict], image_ids: np.ndarray, category_ids: np.ndarray, path: str
) -> None:
    """Set ``table[image, class]`` for the categories that the images list under ``key``."""
    # Collect the categories that all images list.
    rows = np.searchsorted(image_ids, [image['id'] for image in images])
    counts = [len(image[key]) for image in images]
    listed = [category for image in images for category in image[key]]
    # Report the first one that is not a category.
    if set(map(type, listed)) - {int} or not np.isin(listed, category_ids).all():
        known = set(category_ids.tolist())
        image, value = next((i['id'], c) for i in images for c in i[key] if type(c) is not int or c not in known)
        raise InputError(f"{path}: image {image} lists {value!r} in '{key}', not a category of the file; correct it")
    # Mark all pairs of image and category.
    table[np.repeat(rows, counts), np.searchsorted(category_ids, np.array(listed, dtype=np.int64))] = True
