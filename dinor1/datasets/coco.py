"""Detection data in COCO format, the base class of all data sets of boxes."""

import colorsys
import difflib
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import cv2
from mmdet.datasets import CocoDataset
from mmengine.fileio import get_local_path, join_path
from mmengine.utils import is_abs

from dinor1.annotations.merge import merge_coco
from dinor1.datasets.seeding import SeededPipelineMixin
from dinor1.datasets.validation import check_coco
from dinor1.registry import DATASETS
from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json


@DATASETS.register_module()
class CocoPromptDataset(SeededPipelineMixin, CocoDataset):
    """MMDetection's ``CocoDataset`` that reads its class names, checks its file and is reproducible.

    - Class names are those of the file's ``categories`` in the order of their ids, and label ``i`` is the
      ``i``-th of them. ``metainfo=dict(classes=...)`` chooses some of them, in that order, instead.
      MMDetection's ``CocoMetric`` numbers classes by their index in the file: with it, set
      ``sort_categories=True`` and keep chosen classes in the order of their ids.
    - The file is checked as a whole before anything is read from it, see :mod:`dinor1.datasets.validation`.
    - Augmentation depends on ``(seed, epoch, index)`` only, see :class:`SeededPipelineMixin`.

    As in MMDetection, ``iscrowd`` boxes get ``ignore_flag = 1``, and boxes marked ``ignore`` or smaller than
    one pixel are left out. ``iscrowd`` and ``area`` may be absent. Images without boxes stay, unless
    ``filter_cfg`` says otherwise.

    ``ann_file`` may also be a list of annotation files with the same categories, such as those of validation and test:
    they are read as one, and their images are numbered from 1, see :func:`dinor1.annotations.merge.merge_coco`.

    Args:
        ann_file: The annotation file, or several.
        args: Of MMDetection's ``CocoDataset``.
        bad_annotations: ``'error'`` refuses a file with a defective annotation or a missing image; ``'skip'``
            leaves these out and logs one warning with their numbers.
        seed: Of the augmentation; ``None`` draws it from the global random generators.
        kwargs: Of MMDetection's ``CocoDataset``.

    Raises:
        InputError: the file or an image cannot be used, or a chosen class is not in the file.
    """

    METAINFO: dict = {}

    def __init__(
        self,
        ann_file: str | Sequence[str] | None = '',
        *args: Any,
        bad_annotations: str = 'error',
        seed: int | None = 0,
        **kwargs: Any,
    ) -> None:
        if bad_annotations not in ('error', 'skip'):
            raise InputError(f"bad_annotations must be 'error' or 'skip', not {bad_annotations!r}")
        self.bad_annotations = bad_annotations
        super().__init__(ann_file, *args, seed=seed, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read and check the annotation file; the entries are those of MMDetection's ``CocoDataset``."""
        data = self._read_files()
        # Only local files can be looked for at little cost; a remote one is missed when it is read.
        img_dir = self.data_prefix['img'] if self.backend_args is None else None
        images, annotations = check_coco(data, self.ann_file, img_dir, skip=self.bad_annotations == 'skip')
        self._set_classes(data['categories'])

        by_image, self.cat_img_map = defaultdict(list), defaultdict(list)
        for annotation in annotations:
            by_image[annotation['image_id']].append(annotation)
            self.cat_img_map[annotation['category_id']].append(annotation['image_id'])
            if annotation.get('area') is None:
                annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
        return [
            self.parse_data_info(
                {'raw_img_info': image | {'img_id': image['id']}, 'raw_ann_info': by_image[image['id']]}
            )
            for image in images
        ]

    def _read_files(self) -> dict:
        """Content of the annotation file, or of several as one."""
        several = not isinstance(self.ann_file, str | os.PathLike)
        contents = []
        for path in self.ann_file if several else [self.ann_file]:
            with get_local_path(path, backend_args=self.backend_args) as local_path:
                contents.append(self.read_annotations(local_path))
        return merge_coco(contents, self.ann_file) if several else contents[0]

    def _join_prefix(self) -> None:
        files, self.ann_file = self.ann_file, ''
        super()._join_prefix()
        several = not isinstance(files, str | os.PathLike)
        root = self.data_root
        joined = [join_path(root, f) if root and f and not is_abs(f) else f for f in (files if several else [files])]
        self.ann_file = joined if several else joined[0]

    def read_annotations(self, path: str) -> dict:
        """Content of the annotation file, in COCO form; a subclass reads another form."""
        return read_json(path)

    def _set_classes(self, categories: list[dict]) -> None:
        """Set the class names, their colours and the map from category ids to labels."""
        ids = {category['name']: category['id'] for category in sorted(categories, key=lambda c: c['id'])}
        classes = self._metainfo.get('classes', tuple(ids))
        classes = (classes,) if isinstance(classes, str) else tuple(classes)
        for name in classes:
            if name not in ids:
                near = difflib.get_close_matches(str(name), ids, n=3, cutoff=0.3) or list(ids)[:3]
                raise InputError(
                    f"{self.ann_file}: no category is named '{name}'; the nearest are {', '.join(near)}: "
                    "correct metainfo['classes']"
                )
        self.cat_ids = [ids[name] for name in classes]
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}
        self._metainfo['classes'] = classes
        self._metainfo.setdefault('palette', _palette(len(classes)))

    def filter_data(self) -> list[dict]:
        """Apply ``filter_cfg`` as MMDetection does; that nothing remains is an error."""
        data_list = super().filter_data()
        if not data_list:
            raise InputError(f'{self.ann_file}: filter_cfg {self.filter_cfg} leaves no image; relax it')
        return data_list

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on one image.

        Raises:
            InputError: the file of the image is missing or is not an image.
        """
        try:
            return super().prepare_data(idx)
        except Exception as error:
            # Looked into only after a failure, so that it costs nothing and other errors keep their own text.
            path = self.get_data_info(idx)['img_path']
            if self.backend_args is None and (not os.path.isfile(path) or cv2.imread(path) is None):
                raise InputError(f'{path}: missing, or not an image that can be read; restore the file') from error
            raise


def _palette(num_classes: int) -> list[tuple[int, int, int]]:
    """Bright RGB colours; steps of the golden ratio keep the hues of neighbouring classes apart."""
    golden = 0.618034
    return [
        tuple(round(255 * value) for value in colorsys.hsv_to_rgb(label * golden % 1, 0.75, 0.95))
        for label in range(num_classes)
    ]
