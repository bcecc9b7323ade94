"""Reject annotation files that are wrong as a whole, and list the defects of single annotations."""

from typing import Any

from dinor1.utils.errors import InputError

from .categories import numbering_error
from .instances import Defects, annotation_defects, box_form
from .structure import structure_findings


def check_for_training(data: Any, path: str) -> Defects:
    """Reject a file that cannot be used by leaving annotations out, and list the annotations to leave out.

    Args:
        data: Content of a COCO file, of any type.
        path: The file, for messages.

    Returns:
        Index -> kind and details, of each defective annotation.

    Raises:
        InputError: sections, images or categories are wrong; or the category ids or the boxes of all annotations are.
    """
    # Reject files with a wrong structure.
    for finding in structure_findings(data):
        raise InputError(f'{path}: {finding.detail}; {finding.advice}')
    # Reject files whose category ids or boxes are all wrong.
    annotations = data['annotations']
    sizes = {image['id']: (image['width'], image['height']) for image in data['images']}
    known = {category['id'] for category in data['categories']}
    used = {a['category_id'] for a in annotations if isinstance(a, dict) and type(a.get('category_id')) is int}
    for finding in (numbering_error(known, used), box_form(annotations, sizes)):
        if finding is not None:
            raise InputError(f'{path}: {finding.kind}: {finding.detail}; {finding.advice}')
    return annotation_defects(annotations, sizes, known)
