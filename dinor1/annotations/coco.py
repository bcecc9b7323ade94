"""COCO files, and LVIS files, which add lists of absent and of not exhaustively annotated categories to each image."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from .content import COCO, LVIS, Content
from .findings import Finding

_LISTS = ('neg_category_ids', 'not_exhaustive_category_ids')
_FREQUENCIES = ('r', 'c', 'f')


def from_json(path: Path, data: Any) -> Content:
    """Content of a COCO or LVIS file; the keys of its first image decide which."""
    images = data.get('images') if isinstance(data, dict) else None
    first = images[0] if isinstance(images, list) and images and isinstance(images[0], dict) else {}
    if not any(key in first for key in _LISTS):
        return Content(path, COCO, data)
    for image in images:
        # LVIS v1 has no file_name; readers derive it from the URL of the image.
        if isinstance(image, dict) and 'file_name' not in image and isinstance(image.get('coco_url'), str):
            image['file_name'] = path_from_url(image['coco_url'])
            image[DERIVED_NAME] = True
    return Content(path, LVIS, data, file_names=_lvis_names)


# Marks an image whose file_name is not in the file but was derived from its URL.
DERIVED_NAME = '_derived_file_name'


def to_json(content: Content) -> Any:
    """The JSON object that is written to disk for a content."""
    if content.format != LVIS:
        return content.data
    hidden = (DERIVED_NAME, 'file_name')
    images = [
        {key: value for key, value in image.items() if key not in hidden} if image.get(DERIVED_NAME) else image
        for image in content.data['images']
    ]
    return content.data | {'images': images}


def lvis_image_path(image: dict) -> str:
    """Path of an LVIS image below the root of COCO 2017, from its URL."""
    url = image.get('coco_url')
    return path_from_url(url) if isinstance(url, str) else image['file_name']


def path_from_url(url: str) -> str:
    """``val2017/000000397133.jpg`` of ``http://images.cocodataset.org/val2017/000000397133.jpg``."""
    return '/'.join(urlparse(url).path.strip('/').split('/')[-2:])


def _lvis_names(image: dict) -> list[str]:
    name = image['file_name']
    base = name.rsplit('/', 1)[-1]
    # LVIS v0.5 writes names of COCO 2014, COCO_val2014_000000397133.jpg, for images of COCO 2017.
    names = [name, base, base[-16:] if base.startswith('COCO_') else base]
    if isinstance(image.get('coco_url'), str):
        names.append(path_from_url(image['coco_url']))
    return list(dict.fromkeys(names))


def lvis_findings(content: Content) -> Iterator[Finding]:
    """Defects of LVIS's additions: the frequency of a category, and the lists of an image."""
    # Collect the categories that are annotated in each image.
    known = {category['id'] for _, category in content.valid('categories')}
    present = defaultdict(set)
    for annotation in content.records('annotations'):
        if isinstance(annotation, dict) and isinstance(annotation.get('image_id'), int | str):
            category = annotation.get('category_id')
            if isinstance(category, int):
                present[annotation['image_id']].add(category)
    # Frequencies of categories.
    for index, category in content.valid('categories'):
        if category.get('frequency') not in _FREQUENCIES:
            detail = f'{category["name"]!r} has frequency {category.get("frequency")!r}'
            yield Finding('no frequency', detail, 'categories', index)
    # Lists of images.
    for index, image in content.valid('images'):
        lists = {key: image.get(key, []) for key in _LISTS}
        for key, ids in lists.items():
            strange = [i for i in ids if type(i) is not int or i not in known] if isinstance(ids, list) else [ids]
            if strange:
                detail = f'{key} has {strange[0]!r}'
                yield Finding('unknown category in a list', detail, 'images', index)
        negative = set(_as_ids(lists['neg_category_ids']))
        both = negative & (present[image['id']] | set(_as_ids(lists['not_exhaustive_category_ids'])))
        if both:
            detail = f'category {min(both)} is listed as absent, but also annotated or listed as not exhaustive'
            yield Finding('contradictory lists', detail, 'images', index)


def _as_ids(values: Any) -> list[int]:
    return [value for value in values if isinstance(value, int)] if isinstance(values, list) else []
