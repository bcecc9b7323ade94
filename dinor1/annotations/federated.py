"""Federated labels: the categories for which each image of a file was annotated.

A file that was merged from several sources, or LVIS (Gupta et al. 2019, arXiv 1908.03195, Section 2), annotates each
image for some of its categories only. For the others, an image without a box may still show an instance.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import Any, NamedTuple

from dinor1.utils.errors import InputError

from .findings import Finding


class LabelScope(NamedTuple):
    """The categories that the annotations of an image cover.

    Attributes:
        annotated: Ids of the categories that annotators looked for, whether or not they marked every instance. An
            object with a box of one of them belongs to none of the others.
        exhaustive: Ids of the categories, a subset of ``annotated``, whose instances in the image all have a box.
    """

    annotated: frozenset[int]
    exhaustive: frozenset[int]


def label_scopes(
    data: dict[str, Any], path: str, not_exhaustive: bool | Collection[str] = False
) -> dict[Any, LabelScope]:
    """The categories that the annotations of each image of a COCO or LVIS file cover.

    An image is annotated for the categories of its source, ``sources[].exhaustive_category_ids``; without sources, for
    those in LVIS's lists and those with a box; without lists, for all categories of the file. Annotations are not
    exhaustive for the categories in the image's ``not_exhaustive_category_ids``, for those with an ``iscrowd`` or
    ``ignore`` annotation, which stands for instances without a box, and for those that the argument
    ``not_exhaustive`` chooses. Categories in ``neg_category_ids`` are always absent.

    Args:
        data: Content of a file that passed :func:`~dinor1.annotations.training_check.check_for_training`.
        path: The file, for messages.
        not_exhaustive: Names of sources whose annotations are not exhaustive, regardless of the file; True: every
            source.

    Returns:
        Image id -> scope.

    Raises:
        InputError: a list names an unknown category, an image has an unknown source, or a source that the argument
            names is not in the file.
    """
    # Read the sources, and check the names of the argument.
    known = frozenset(category['id'] for category in data['categories'])
    sources = _sources(data, path, known)
    if not isinstance(not_exhaustive, bool):
        for name in not_exhaustive:
            if name not in (sources or {}):
                there = ', '.join(sources) if sources else 'none'
                raise InputError(
                    f'{path}: not_exhaustive names the source {name!r}, but the file has {there}; correct it, or set '
                    'not_exhaustive=True for all images'
                )

    # Collect the categories with a box, and those with an annotation that stands for instances without a box.
    present, incomplete = defaultdict(set), defaultdict(set)
    for annotation in data['annotations']:
        if isinstance(annotation, dict) and annotation.get('category_id') in known:
            unboxed = annotation.get('iscrowd') or annotation.get('ignore')
            (incomplete if unboxed else present)[annotation.get('image_id')].add(annotation['category_id'])

    scopes = {}
    for image in data['images']:
        absent, partial = (
            _ids(image.get(key), known, f'{path}: image {image["id"]}: {key}')
            for key in ('neg_category_ids', 'not_exhaustive_category_ids')
        )
        shown = present[image['id']] | incomplete[image['id']]
        # Find the categories that the image is annotated for.
        if sources is not None:
            if image.get('source') not in sources:
                raise InputError(
                    f"{path}: image {image['id']} has the source {image.get('source')!r}, which is not in 'sources'; "
                    'add it'
                )
            base = sources[image['source']]
        elif 'neg_category_ids' in image or 'not_exhaustive_category_ids' in image:
            base = frozenset(shown)
        else:
            base = known
        # Find those that are annotated exhaustively.
        all_partial = not_exhaustive if isinstance(not_exhaustive, bool) else image.get('source') in not_exhaustive
        exhaustive = (frozenset() if all_partial else base - incomplete[image['id']]) | absent
        scopes[image['id']] = LabelScope(base | absent | partial | shown, exhaustive - partial)
    return scopes


def as_lvis(data: dict[str, Any], path: str, not_exhaustive: bool | Collection[str] = False) -> dict[str, Any]:
    """A file with sources in the form of LVIS, so that its metric evaluates each image for its own categories only.

    Args:
        data: Content of a COCO file with ``sources``; it is not changed.
        path: The file, for messages.
        not_exhaustive: See :func:`label_scopes`.

    Returns:
        The content with the lists ``neg_category_ids`` and ``not_exhaustive_category_ids`` of each image, and the
        frequency ``f`` of each category that has none: how frequent categories are in the training set is not known
        here. An annotation without an area gets that of its box.

    Raises:
        InputError: see :func:`label_scopes`.
    """
    scopes = label_scopes(data, path, not_exhaustive)
    shown: dict[Any, set[int]] = defaultdict(set)
    annotations = []
    for annotation in data['annotations']:
        shown[annotation['image_id']].add(annotation['category_id'])
        # LVIS has no crowds: such a box is ignored, and its category is not exhaustive.
        extra = dict(ignore=1) if annotation.get('iscrowd') else {}
        if not (annotation.get('area') or 0) > 0:
            extra['area'] = annotation['bbox'][2] * annotation['bbox'][3]
        annotations.append(annotation | extra)
    images = [
        image
        | dict(
            neg_category_ids=sorted(scopes[image['id']].exhaustive - shown[image['id']]),
            not_exhaustive_category_ids=sorted(
                (scopes[image['id']].annotated - scopes[image['id']].exhaustive) & shown[image['id']]
            ),
        )
        for image in data['images']
    ]
    categories = [dict(frequency='f') | category for category in data['categories']]
    return data | dict(images=images, annotations=annotations, categories=categories)


def source_findings(data: dict[str, Any]) -> list[Finding]:
    """The first defect of the sources of a COCO file, in a list; empty without a defect or without sources.

    Args:
        data: Content of a file whose sections and records are valid.
    """
    if 'sources' not in data:
        return []
    try:
        label_scopes(data, 'sources')
    except InputError as error:
        return [Finding('invalid source', str(error).removeprefix('sources: ').partition('; ')[0])]
    return []


def _sources(data: dict[str, Any], path: str, known: Collection[int]) -> dict[str, frozenset[int]] | None:
    """Category ids of each source; None if the file has no sources."""
    records = data.get('sources')
    if records is None:
        return None
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and isinstance(record.get('name'), str) for record in records
    ):
        raise InputError(f"{path}: 'sources' must be a list of objects with a 'name'; correct it")
    return {
        record['name']: _ids(
            record.get('exhaustive_category_ids'), known, f'{path}: source {record["name"]!r}: exhaustive_category_ids'
        )
        for record in records
    }


def _ids(values: Any, known: Collection[int], where: str) -> frozenset[int]:
    """A list of category ids; None counts as empty."""
    if values is None:
        return frozenset()
    if not isinstance(values, list):
        raise InputError(f'{where} must be a list of category ids, got {values!r}; correct it')
    for value in values:
        if type(value) is not int or value not in known:
            raise InputError(f'{where} has {value!r}, which is not a category of the file; correct it')
    return frozenset(values)
