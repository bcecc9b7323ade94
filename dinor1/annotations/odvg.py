"""ODVG files: one JSON object per line and image, with boxes ``[x1, y1, x2, y2]``.

MMDetection's ``ODVGDataset`` reads them. A line has ``filename``, ``height``, ``width`` and either
``detection: {instances: [{bbox, label, category}]}``, where a second file maps labels to names (``{"0": "cat"}``), or
``grounding: {caption, regions: [{bbox, phrase, tokens_positive}]}``.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dinor1.utils.errors import InputError
from dinor1.utils.io import parse_json, read_json, visible

from .content import ODVG, Content
from .findings import Finding
from .instances import is_box
from .structure import as_number

_PHRASE = {'id': 0, 'name': 'phrase'}


def looks_like_odvg(path: Path, text: str) -> bool:
    """Whether a file is meant as ODVG, judged by its suffix or, because MMDetection uses ``.json``, its first line."""
    first = text[: text.find('\n') + 1] or text
    return path.suffix == '.jsonl' or ('"filename"' in first and '"images"' not in first)


def find_label_map(path: Path) -> Path | None:
    """The label map beside an ODVG file: ``<stem>_label_map.json``, or the only ``*label_map*.json``."""
    own = own_label_map(path)
    if own.is_file():
        return own
    others = visible(path.parent, '*label_map*.json')
    return others[0] if len(others) == 1 else None


def own_label_map(path: Path) -> Path:
    """Default path of the label map of an ODVG file: ``<stem>_label_map.json`` beside it."""
    return path.with_name(f'{path.stem}_label_map.json')


def read_label_map(path: Path) -> list[dict]:
    """Categories (``id`` and ``name``) of a label map, in the order of the file.

    Raises:
        InputError: the file is missing, or does not contain an object of names.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise InputError(f'{path}: not a label map; write an object of names by label, such as {{"0": "cat"}}')
    return [{'id': as_number(label), 'name': name} for label, name in content.items()]


def from_lines(path: Path, text: str, label_map: Path | None = None) -> Content:
    """Content of an ODVG file.

    Image ids are line numbers, from 1; annotation ids are texts such as ``line 1, instance 0``. Boxes are in COCO
    format. Images and annotations keep the original object as ``source``; boxes of grounding data have a single
    category, ``phrase``.

    Args:
        path: The file.
        text: Its text.
        label_map: File with the names of labels; default: the result of :func:`find_label_map`.
    """
    # Read the lines.
    images, annotations, findings, kinds = [], [], [], set()
    # Not splitlines(), which also splits at separators that a JSON string may contain.
    for number, line in enumerate(text.removesuffix('\n').split('\n'), start=1):
        record, problem = parse_json(line, number) if line.strip() else (None, f'line {number} is empty')
        if not isinstance(record, dict):
            findings.append(Finding('broken line', problem or f'line {number} is not an object'))
            continue
        image = {key: record[key] for key in ('height', 'width') if key in record}
        images.append(image | {'id': number, 'file_name': record.get('filename'), 'source': record})
        kinds |= {'detection', 'grounding'} & record.keys()
        for annotation in _boxes(record):
            name = f'line {number}, {annotation["id"]}'
            annotations.append(annotation | {'id': name, 'image_id': number})
    if len(kinds) > 1:
        findings.append(Finding('mixed lines', 'some lines have detection boxes, others grounding'))
    # Read the names of the labels.
    categories, named = [_PHRASE], kinds != {'grounding'}
    if named:
        label_map = label_map or find_label_map(path)
        if label_map is None:
            findings.append(Finding('no label map', 'its labels have no names'))
            categories = _own_names(annotations)
        else:
            categories = read_label_map(label_map)
    data = {'images': images, 'categories': categories, 'annotations': annotations}
    return Content(path, ODVG, data, findings, locate=_location, named=named)


def _boxes(record: dict) -> list[dict]:
    """Annotations of a line; their ids describe their location in it."""
    # Grounding: regions with one or several boxes.
    grounding = record.get('grounding')
    if isinstance(grounding, dict):
        found = []
        for index, region in enumerate(_list(grounding, 'regions')):
            boxes = region.get('bbox') if isinstance(region, dict) else None
            several = isinstance(boxes, list) and bool(boxes) and isinstance(boxes[0], list)
            for number, box in enumerate(boxes if several else [boxes]):
                name = f'region {index}, box {number}' if several else f'region {index}'
                found.append(_annotation(name, region, box) | {'category_id': _PHRASE['id']})
        return found
    # Detection: instances with a label.
    found = []
    for index, instance in enumerate(_list(record.get('detection'), 'instances')):
        box = instance.get('bbox') if isinstance(instance, dict) else None
        annotation = _annotation(f'instance {index}', instance, box)
        if isinstance(instance, dict) and 'label' in instance:
            annotation['category_id'] = instance['label']
        found.append(annotation)
    return found


def _annotation(name: str, source: Any, box: Any) -> dict:
    annotation = {'id': name, 'source': source}
    # ODVG has neither iscrowd nor area; the checks of COCO annotations need both.
    return annotation if box is None else annotation | {'bbox': _from_corners(box), 'iscrowd': 0, 'area': 1}


def _list(container: Any, key: str) -> list:
    found = container.get(key, []) if isinstance(container, dict) else []
    return found if isinstance(found, list) else []


def _from_corners(box: Any) -> Any:
    """``[x, y, width, height]`` of a box; anything else is returned unchanged, for the check of boxes to report."""
    if is_box(box):
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    return box


def _own_names(annotations: list[dict]) -> list[dict]:
    """Categories from the names in the instances, so that the other checks can run without a label map."""
    names = {}
    for annotation in annotations:
        label = annotation.get('category_id')
        if type(label) is int and isinstance(annotation['source'], dict):
            names.setdefault(label, str(annotation['source'].get('category', label)))
    return [{'id': label, 'name': names[label]} for label in sorted(names)]


def _location(content: Content, finding: Finding) -> str:
    if finding.entry < 0:
        return ''
    record = content.data[finding.section][finding.entry]
    if finding.section == 'categories':
        return f'label {record["id"]}'
    if finding.section == 'images':
        return f'line {record["id"]}'
    return record['id']


def odvg_findings(content: Content) -> Iterator[Finding]:
    """Labels that contradict the category name beside them, and phrases outside their caption."""
    names = {category['id']: category['name'] for _, category in content.valid('categories')}
    captions = {image['id']: _caption(image['source']) for image in content.data['images']}
    for index, annotation in enumerate(content.data['annotations']):
        source = annotation['source']
        if not isinstance(source, dict):
            continue
        # Detection: compare the label with the name.
        if content.named:
            label, stated = annotation.get('category_id'), source.get('category')
            if isinstance(stated, str) and type(label) is int and names.get(label) != stated:
                meaning = f'means {names[label]!r}' if label in names else 'means nothing'
                detail = f'category {stated!r} has the label {label}, which {meaning}'
                # The check of references reports an unknown label, unless its name is known.
                if label in names or stated in names.values():
                    yield Finding('label contradicts category', detail, 'annotations', index)
            continue
        # Grounding: check the spans of the phrase.
        caption = captions[annotation['image_id']]
        for span in _list(source, 'tokens_positive'):
            fits = isinstance(span, list) and len(span) == 2 and all(type(value) is int for value in span)
            if not fits or not 0 <= span[0] < span[1] <= len(caption):
                detail = f'tokens_positive {span} of a caption of {len(caption)} characters'
                yield Finding('span outside the caption', detail, 'annotations', index)


def _caption(record: dict) -> str:
    grounding = record.get('grounding')
    caption = grounding.get('caption') if isinstance(grounding, dict) else None
    return caption if isinstance(caption, str) else ''


def to_lines(content: Content) -> str:
    """Text of an ODVG file with detection boxes, for a content that was read from such a file and repaired."""
    # Group the annotations by image.
    by_image = defaultdict(list)
    for annotation in content.data['annotations']:
        by_image[annotation['image_id']].append(annotation)
    names = {category['id']: category['name'] for category in content.data['categories']}
    # Write a line per image, and keep the additional fields of the file that was read.
    lines = []
    for image in content.data['images']:
        size = {'filename': image['file_name'], 'height': image['height'], 'width': image['width']}
        instances = []
        for annotation in by_image[image['id']]:
            label = annotation['category_id']
            known = {'bbox': _corners_of(annotation), 'label': label, 'category': names[label]}
            instances.append(annotation['source'] | known)
        lines.append(json.dumps(image['source'] | size | {'detection': {'instances': instances}}))
    return '\n'.join(lines) + '\n'


def _corners_of(annotation: dict) -> list[float]:
    given = annotation['source']['bbox']
    # Keep the numbers of an unchanged box: converting back and forth may change their last digit.
    return given if _from_corners(given) == annotation['bbox'] else to_corners(annotation['bbox'])


def to_corners(box: list[float]) -> list[float]:
    """``[x1, y1, x2, y2]`` of ``[x, y, width, height]``."""
    # Round: a sum such as 237.56 + 166.4 has meaningless last digits, which make files longer.
    return [round(value, 6) for value in (box[0], box[1], box[0] + box[2], box[1] + box[3])]


def from_coco(
    images: list[dict], annotations: list[dict], categories: list[dict], name_of: Callable[[dict], str]
) -> tuple[Iterator[str], dict[str, str]]:
    """ODVG lines and label map of COCO records.

    Labels are indices in the order of category ids, as in :class:`dinor1.datasets.CocoPromptDataset`. ODVG cannot mark
    boxes as ignored: the caller leaves them out.

    Args:
        images: Records.
        annotations: Records without a defect.
        categories: Records.
        name_of: Maps the record of an image to its ``filename``.
    """
    # Assign labels, and collect the annotations of each image.
    categories = sorted(categories, key=lambda category: category['id'])
    labels = {category['id']: label for label, category in enumerate(categories)}
    names = [category['name'] for category in categories]
    by_image = defaultdict(list)
    for annotation in annotations:
        by_image[annotation['image_id']].append(annotation)

    # Make the line of an image when it is written, so that not all lines are in memory.
    def lines() -> Iterator[str]:
        for image in images:
            instances = []
            for annotation in by_image[image['id']]:
                label = labels[annotation['category_id']]
                instances.append({'bbox': to_corners(annotation['bbox']), 'label': label, 'category': names[label]})
            size = {'height': image['height'], 'width': image['width']}
            yield json.dumps({'filename': name_of(image), **size, 'detection': {'instances': instances}})

    return lines(), {str(label): name for label, name in enumerate(names)}
