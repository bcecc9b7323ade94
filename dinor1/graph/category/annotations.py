"""What the annotation file of a data set, COCO's or LVIS's, says about its classes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from dinor1.errors import InputError


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
        InputError: there are no categories, or one lacks an id or a name.
    """
    where = f'{path}: ' if path else ''
    categories = data.get('categories') if isinstance(data, Mapping) else None
    if not categories:
        raise InputError(f'{where}no categories; expected an annotation file of COCO or LVIS')
    for number, category in enumerate(categories):
        if not isinstance(category, Mapping) or not {'id', 'name'} <= set(category):
            raise InputError(f'{where}category number {number} has no id or no name; correct the file')
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
        InputError: the file has no images or annotations, or an annotation names none of the images.
    """
    where = f'{path}: ' if path else ''
    if 'images' not in data or 'annotations' not in data:
        raise InputError(f'{where}no images or no annotations; expected an annotation file of COCO or LVIS')
    rows = {image['id']: i for i, image in enumerate(data['images'])}
    columns = {category: i for i, category in enumerate(ids)}
    pairs = set()
    for annotation in data['annotations']:
        image = rows.get(annotation['image_id'])
        if image is None:
            raise InputError(f'{where}annotation {annotation.get("id")} is of image {annotation["image_id"]}, unknown')
        if annotation['category_id'] in columns:
            pairs.add((image, columns[annotation['category_id']]))
    places = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
    shown = csr_array((np.ones(places.shape[1], np.int64), tuple(places)), shape=(len(rows), len(columns)))
    return torch.from_numpy((shown.T @ shown).toarray()), len(rows)
