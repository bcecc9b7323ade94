"""LVIS with prompts: pictures of COCO 2017 under another vocabulary."""

from dinor1.annotations.coco import path_from_url
from dinor1.datasets.coco import CocoPromptDataset
from dinor1.registry import DATASETS
from dinor1.utils.io import read_json


@DATASETS.register_module()
class LVISPromptDataset(CocoPromptDataset):
    """:class:`CocoPromptDataset` for LVIS v1 (train, val, minival) and v0.5.

    LVIS v1 names a picture by its address alone, and v0.5 by its name in COCO 2014. Both are pictures of COCO 2017, of
    its training *and* validation set in one file: the path of a picture is the end of its ``coco_url``, for instance
    ``val2017/000000397133.jpg``, below ``data_prefix['img']``. An image without ``coco_url`` goes by its ``file_name``.

    Masks are not kept: a million polygons would fill the memory of every process.

    Args:
        kwargs: Of :class:`CocoPromptDataset`.

    Raises:
        InputError: as :class:`CocoPromptDataset`.
    """

    def read_annotations(self, path: str) -> dict:
        """The file in COCO form: pictures by their path, no masks."""
        data = read_json(path)
        for image in _records(data, 'images'):
            if isinstance(image.get('coco_url'), str):
                image['file_name'] = path_from_url(image['coco_url'])
        for annotation in _records(data, 'annotations'):
            annotation.pop('segmentation', None)
        return data


def _records(data: object, section: str) -> list[dict]:
    """What of a section can be looked into; the check that follows refuses the rest."""
    records = data.get(section) if isinstance(data, dict) else None
    return [record for record in records if isinstance(record, dict)] if isinstance(records, list) else []
