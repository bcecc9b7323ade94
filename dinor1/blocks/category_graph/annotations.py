"""What the annotation file of a data set, COCO's or LVIS's, says about its classes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from dinor1.annotations.structure import is_valid, structure_findings
from dinor1.utils.errors import InputError


class Categories(NamedTuple):
    """The classes of an annotation file, in the order of their ids, which is that of the detector's labels.

    Attributes:
        ids: Their ids.
        names: Their names.
        synsets: WordNet names, which LVIS has; ``None`` where there is none.
        supercategories: Super-categories, which COCO has; ``None`` where there is none.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    synsets: tuple[str | None, ...]
    supercategories: tuple[str | None, ...]


def read_categories(data: Mapping[str, Any], path: str = '') -> Categories:
    """The classes of the content of an annotation file.

    Args:
        data: Content of the file.
        path: The file, for messages.

    Raises:
        InputError: there are no categories, one lacks an id or a name, or shares them with another.
    """
    where = f'{path}: ' if path else ''
    categories = data.get('categories') if isinstance(data, Mapping) else None
    if not categories or not isinstance(categories, list):
        raise InputError(f'{where}no categories; expected an annotation file of COCO or LVIS')
    for number, category in enumerate(categories):
        if not is_valid('categories', category):
            raise InputError(f'{where}category number {number} has no id or no name; correct the file')
        for key in ('synset', 'supercategory'):
            if not isinstance(category.get(key), str | None):
                raise InputError(f'{where}category number {number}: {key} is not a string; correct the file')
    # Nothing but the categories is known to be there.
    for finding in structure_findings(dict(images=[], annotations=[], categories=categories)):
        if finding.section == 'categories':
            raise InputError(f'{where}{finding.detail}; {finding.advice}')
    ordered = sorted(categories, key=lambda category: category['id'])
    columns = [tuple(category.get(key) or None for category in ordered) for key in ('synset', 'supercategory')]
    return Categories(tuple(c['id'] for c in ordered), tuple(c['name'] for c in ordered), *columns)


def cooccurrence_counts(data: Mapping[str, Any], ids: Sequence[int], path: str = '') -> tuple[Tensor, int]:
    """Count the images that show two classes. For a graph that a detector is trained with: on training images only.

    Args:
        data: Content of an annotation file. Crowds count as well.
        ids: Ids of the C classes; annotations of others do not count.
        path: The file, for messages.

    Returns:
        ``(C, C)`` int64, on the diagonal the images that show the class; and the number of all images.

    Raises:
        InputError: the file has no images or annotations, one of them is incomplete, or an annotation names none of
            the images.
    """
    where = f'{path}: ' if path else ''
    images, annotations = (data.get(key) if isinstance(data, Mapping) else None for key in ('images', 'annotations'))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise InputError(f'{where}no images or no annotations; expected an annotation file of COCO or LVIS')
    # Not by structure_findings: image files play no part here, and images of LVIS have no file name.
    rows = {_id(image, 'id', f'{where}image number {i}'): i for i, image in enumerate(images)}
    columns = {category: i for i, category in enumerate(ids)}
    pairs = set()
    for number, annotation in enumerate(annotations):
        image_id, category = (
            _id(annotation, key, f'{where}annotation number {number}') for key in ('image_id', 'category_id')
        )
        image = rows.get(image_id)
        if image is None:
            raise InputError(f'{where}annotation {annotation.get("id")} is of image {image_id}, unknown; correct it')
        if category in columns:
            pairs.add((image, columns[category]))
    places = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
    shown = csr_array((np.ones(places.shape[1], np.int64), tuple(places)), shape=(len(rows), len(columns)))
    return torch.from_numpy((shown.T @ shown).toarray()), len(rows)


def _id(record: Any, key: str, where: str) -> int | str:
    value = record.get(key) if isinstance(record, Mapping) else None
    if type(value) not in (int, str):  # type() rather than isinstance(): true and false are no ids
        raise InputError(f'{where} has no {key}; correct the file')
    return value
