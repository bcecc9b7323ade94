"""Classes and co-occurrence counts from a COCO or LVIS annotation file."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from dinor1.annotations.structure import is_valid, structure_findings
from dinor1.utils.errors import InputError


class Categories(NamedTuple):
    """The classes of an annotation file, in the order of their ids, which is the order of the detector's labels.

    Attributes:
        ids: Category ids.
        names: Class names.
        names: Their names.
        synsets: WordNet names (LVIS); ``None`` for a class without one.
        supercategories: Super-categories (COCO); ``None`` for a class without one.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    synsets: tuple[str | None, ...]
    supercategories: tuple[str | None, ...]


def read_categories(data: Mapping[str, Any], path: str = '') -> Categories:
    """Read the classes from the content of an annotation file.

    Args:
        data: Content of the file.
        path: Name of the file for error messages.

    Raises:
        InputError: there are no categories, one lacks an id or a name, or two share an id or a name.
    """
    where = f'{path}: ' if path else ''
    categories = data.get('categories') if isinstance(data, Mapping) else None
    if not categories or not isinstance(categories, list):
        raise InputError(f'{where}no categories; expected an annotation file of COCO or LVIS')
    # Check the types of every category.
    for number, category in enumerate(categories):
        if not is_valid('categories', category):
            raise InputError(f'{where}category number {number} has no id or no name; correct the file')
        for key in ('synset', 'supercategory'):
            if not isinstance(category.get(key), str | None):
                raise InputError(f'{where}category number {number}: {key} is not a string; correct the file')
    # Reject repeated ids and names. The other sections may be missing, so only categories are passed.
    for finding in structure_findings(dict(images=[], annotations=[], categories=categories)):
        if finding.section == 'categories':
            raise InputError(f'{where}{finding.detail}; {finding.advice}')
    # Sort by id, and turn the records into columns.
    ordered = sorted(categories, key=lambda category: category['id'])
    columns = [tuple(category.get(key) or None for category in ordered) for key in ('synset', 'supercategory')]
    return Categories(tuple(c['id'] for c in ordered), tuple(c['name'] for c in ordered), *columns)


def cooccurrence_counts(data: Mapping[str, Any], ids: Sequence[int], path: str = '') -> tuple[Tensor, int]:
    """Count the images that show two classes. Use training images only if a detector is trained with the graph.

    Args:
        data: Content of an annotation file. Crowd annotations count too.
        ids: Ids of the C classes; annotations of other classes do not count.
        path: Name of the file for error messages.

    Returns:
        ``(C, C)`` int64 counts, with the images that show each class on the diagonal; and the number of all images.

    Raises:
        InputError: the file has no images or annotations, one of them is incomplete, or an annotation names an unknown
            image.
    """
    where = f'{path}: ' if path else ''
    images, annotations = (data.get(key) if isinstance(data, Mapping) else None for key in ('images', 'annotations'))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise InputError(f'{where}no images or no annotations; expected an annotation file of COCO or LVIS')
    # structure_findings is not used here: it requires file names of images, which LVIS does not have.
    rows = {_id(image, 'id', f'{where}image number {i}'): i for i, image in enumerate(images)}
    columns = {category: i for i, category in enumerate(ids)}
    # Collect distinct (image, class) pairs.
    pairs = set()
    for number, annotation in enumerate(annotations):
        image_id, category = (
            _id(annotation, key, f'{where}annotation number {number}') for key in ('image_id', 'category_id')
        )
        image = rows.get(image_id)
        if image is None:
            raise InputError(f'{where}annotation {annotation.get("id")} refers to unknown image {image_id}; correct it')
        if category in columns:
            pairs.add((image, columns[category]))
    # Multiply the (images, classes) incidence matrix with itself.
    places = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
    shown = csr_array((np.ones(places.shape[1], np.int64), tuple(places)), shape=(len(rows), len(columns)))
    return torch.from_numpy((shown.T @ shown).toarray()), len(rows)


def _id(record: Any, key: str, where: str) -> int | str:
    value = record.get(key) if isinstance(record, Mapping) else None
    if type(value) not in (int, str):  # type() rather than isinstance(): True and False are not ids
        raise InputError(f'{where} has no {key}; correct the file')
    return value
