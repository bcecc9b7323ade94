"""LVIS: images of COCO 2017 with another vocabulary."""

from dinor1.annotations.coco import path_from_url
from dinor1.datasets.coco import CocoPromptDataset
from dinor1.registry import DATASETS
from dinor1.utils.io import read_json


@DATASETS.register_module()
class LVISPromptDataset(CocoPromptDataset):
    """:class:`CocoPromptDataset` for LVIS v1 (train, val, minival) and v0.5.

    LVIS v1 names an image by its URL alone, and v0.5 by its name in COCO 2014. A file mixes images of the training and
    the validation set of COCO 2017: the path of an image below ``data_prefix['img']`` is the end of its ``coco_url``,
    for instance ``val2017/000000397133.jpg``, or ``file_name`` if it has no ``coco_url``.

    Masks are removed: a million polygons would fill the memory of every process.

    Args:
        kwargs: Arguments of :class:`CocoPromptDataset`.

    Raises:
        InputError: as :class:`CocoPromptDataset`.
    """

    def read_annotations(self, path: str) -> dict:
        """The file in COCO format: images named by their path, no masks."""
        data = read_json(path)
        # Name the images.
        for image in _records(data, 'images'):
            if isinstance(image.get('coco_url'), str):
                image['file_name'] = path_from_url(image['coco_url'])
        # Delete the masks, which take most of the memory.
        for annotation in _records(data, 'annotations'):
            annotation.pop('segmentation', None)
        return data


def _records(data: object, section: str) -> list[dict]:
    """Records of a section that are objects; the check of the file reports the others."""
    records = data.get(section) if isinstance(data, dict) else None
    return [record for record in records if isinstance(record, dict)] if isinstance(records, list) else []
