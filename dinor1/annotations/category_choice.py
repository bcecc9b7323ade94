"""Choice of some of the categories of an annotation file, for example base or novel categories."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from dinor1.utils.errors import InputError


class CategoryChoice(NamedTuple):
    """Chosen categories and images.

    Attributes:
        names: Names of the categories, in ascending order of their ids.
        image_ids: Ids of the images that belong to the choice.
    """

    names: tuple[str, ...]
    image_ids: frozenset[Hashable]


def choose_categories(
    data: dict[str, Any], path: str, listed: Sequence[str], exclude: bool, shared: bool = False
) -> CategoryChoice:
    """Choose categories of a COCO file.

    Args:
        data: Content of a file that passed :func:`~dinor1.annotations.training_check.check_for_training`.
        path: The file, for messages.
        listed: Names of categories.
        exclude: True chooses all other categories, and the images that show none of the listed ones. False chooses
            the listed categories, and the images that show at least one of them. Annotations of crowds count too.
        shared: The list is used for several files: names that are not in this file are ignored, unless all are.

    Raises:
        InputError: a listed name (with ``shared``, every listed name) is not in the file, or nothing remains.
    """
    # Check the names.
    categories = sorted(data['categories'], key=lambda category: category['id'])
    ids = {category['name']: category['id'] for category in categories}
    unknown = [name for name in listed if name not in ids]
    if len(unknown) == len(listed) or (unknown and not shared):
        raise InputError(f'{path}: no category is named {unknown[0]!r}; correct the list of categories')
    # Choose categories and images.
    names = tuple(name for name in ids if (name in listed) != exclude)
    ids_listed = {ids[name] for name in listed if name in ids}
    showing = {
        annotation.get('image_id')
        for annotation in data['annotations']
        if isinstance(annotation, dict) and annotation.get('category_id') in ids_listed
    }
    image_ids = frozenset(image['id'] for image in data['images'] if (image['id'] in showing) != exclude)
    if not names or not image_ids:
        verb, what = 'leaving out' if exclude else 'choosing', 'image' if names else 'category'
        raise InputError(f'{path}: {verb} the {len(listed)} listed categories leaves no {what}; correct the list')
    return CategoryChoice(names, image_ids)


def read_category_names(path: str) -> list[str]:
    """Read names of categories from a text file.

    A line is a name or ``id<TAB>name<TAB>...``; lines that begin with ``#`` are comments.

    Raises:
        InputError: the file cannot be read, or has no name.
    """
    # Read the lines.
    try:
        with open(path, encoding='utf-8') as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: cannot be read as a list of category names ({error}); correct the path') from error
    # Leave out comments; of a line with columns, the second one is the name.
    rows = [line.split('\t') for line in lines if line.strip() and not line.startswith('#')]
    names = [(row[1] if len(row) > 1 else row[0]).strip() for row in rows]
    if not names:
        raise InputError(f'{path}: names no category; write one name per line')
    return names
