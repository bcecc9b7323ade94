"""Merging of annotation files of one data set, such as those of the validation and the test images of a small set."""

from collections.abc import Sequence

from dinor1.utils.errors import InputError


def merge_coco(contents: Sequence[dict], names: Sequence[str]) -> dict:
    """Merge annotation files that have the same categories.

    Images and annotations keep their order, file after file, and are numbered from 1, because different files usually
    have the same ids.

    Args:
        contents: Contents of the files, in COCO format; they are not changed.
        names: Names of the files, for messages.

    Returns:
        The merged content, with the categories of the first file.

    Raises:
        InputError: there is no file, a file is not in COCO format or has other categories, or an annotation refers to
            an image that is not in its file.
    """
    if not contents:
        raise InputError('ann_file: an empty list of annotation files; give at least one')
    categories = _categories(contents[0], names[0])
    images, annotations = [], []
    for content, name in zip(contents, names, strict=True):
        if _categories(content, name) != categories:
            raise InputError(f'{name}: other categories than {names[0]}; only files of one data set can be merged')
        # Number the images and annotations of a file.
        number = {}
        for image in content['images']:
            number[image['id']] = len(images) + 1
            images.append(dict(image, id=number[image['id']]))
        for annotation in content['annotations']:
            if annotation['image_id'] not in number:
                raise InputError(
                    f'{name}: an annotation refers to image {annotation["image_id"]}, which is not in the file; '
                    'correct it'
                )
            image_id = number[annotation['image_id']]
            annotations.append(dict(annotation, id=len(annotations) + 1, image_id=image_id))
    # Merge the sources of federated files.
    merged = contents[0] | dict(images=images, annotations=annotations)
    if any('sources' in content for content in contents):
        merged['sources'] = _sources(contents, names)
    return merged


def _sources(contents: Sequence[dict], names: Sequence[str]) -> list[dict]:
    """The sources of federated files, each once.

    Raises:
        InputError: a file has no sources, or two files have different sources of the same name.
    """
    found: dict[str, dict] = {}
    for content, name in zip(contents, names, strict=True):
        sources = content.get('sources')
        if not isinstance(sources, list) or not all(isinstance(s, dict) and 'name' in s for s in sources):
            raise InputError(f"{name}: has no list 'sources' with names, but another file has; give all files sources")
        for source in sources:
            if found.setdefault(source['name'], source) != source:
                raise InputError(f'{name}: the source {source["name"]!r} differs from that of another file; correct it')
    return list(found.values())


def _categories(content: dict, name: str) -> dict[int, str]:
    """Name of each category id.

    Raises:
        InputError: the content is not in COCO format.
    """
    keys = dict(images={'id'}, annotations={'image_id'}, categories={'id', 'name'})
    for section, needed in keys.items():
        records = content.get(section) if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(r, dict) and needed <= r.keys() for r in records):
            raise InputError(
                f"{name}: not a COCO file, '{section}' is not a list of records with {', '.join(sorted(needed))}; "
                'give a file in COCO format'
            )
    return {category['id']: category['name'] for category in content['categories']}
