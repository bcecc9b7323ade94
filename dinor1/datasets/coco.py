"""Detection data in COCO format; base class of all data sets with boxes."""

import colorsys
import difflib
import functools
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mmdet.datasets import CocoDataset
from mmengine.fileio import get_local_path, join_path
from mmengine.utils import is_abs

from dinor1.annotations.category_choice import CategoryChoice, choose_categories, read_category_names
from dinor1.annotations.federated import LabelScope, label_scopes
from dinor1.annotations.merge import merge_coco
from dinor1.datasets.image_backend import image_backend_args
from dinor1.datasets.mixing import SameSource, indices_by_source
from dinor1.datasets.resized_image import LoadResizedImage
from dinor1.datasets.seeding import SeededPipelineMixin
from dinor1.datasets.validation import check_coco
from dinor1.registry import DATASETS
from dinor1.utils.errors import InputError
from dinor1.utils.image_file import can_decode, check_image
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
    - If the pipeline has a :class:`~dinor1.datasets.LoadResizedImage` with a cache, the data set builds the cache.
    - With ``federated``, every image records the classes that it was annotated for, as the lists of labels
      ``annotated_labels`` and ``exhaustive_labels``, see :class:`~dinor1.annotations.federated.LabelScope`. Add both to
      the ``meta_keys`` of ``PackDetInputs``; the detector then uses an image as a negative only of the classes in
      ``exhaustive_labels``. ``source`` of an image names its file and, if it has one, its source in the file.

    As in MMDetection, ``iscrowd`` boxes get ``ignore_flag = 1``, and boxes that are marked ``ignore`` or smaller than
    one pixel are left out. ``iscrowd`` and ``area`` may be absent; an area that is absent or not positive is replaced
    by that of the box. Images without boxes are kept, unless ``filter_cfg`` removes them.

    ``ann_file`` may also be a list of annotation files with the same categories, such as those of validation and test:
    they are merged, and their images are numbered from 1, see :func:`dinor1.annotations.merge.merge_coco`.

    Args:
        ann_file: The annotation file, or several.
        args: Arguments of MMDetection's ``CocoDataset``.
        bad_annotations: ``'error'`` rejects a file with a defective annotation or a missing image; ``'skip'``
            leaves these out and logs one warning with their numbers.
        seed: Seed of the augmentation; ``None`` uses the global random generators.
        federated: Whether images are annotated for some classes only: those of their source, of LVIS's lists, or
            of this file, see :func:`~dinor1.annotations.federated.label_scopes`. False: for every class.
        not_exhaustive: With ``federated``, names of the sources whose annotations miss instances; True: every source.
        exclude_categories: Categories to remove from the classes: names, or a text file of names below ``data_root``.
            Outside test mode, images that show one of them are left out. A file may be shared by several data sets
            and have names that this one lacks.
        only_categories: Categories to keep as classes, given in the same way; outside test mode, images that show
            none of them are left out.
        exclude_sources: Names of sources in the file whose images are left out, outside test mode.
        kwargs: Arguments of MMDetection's ``CocoDataset``.

    Attributes:
        num_annotations: Number of annotations in the file.
        num_left_out: Number of those that were left out because they, or their images, are defective, or because their
            boxes are thinner than one pixel.

    Raises:
        InputError: the file or an image cannot be used, a chosen class is not in the file, or no image remains.
    """

    METAINFO: dict = {}

    def __init__(
        self,
        ann_file: str | Sequence[str] | None = '',
        *args: Any,
        bad_annotations: str = 'error',
        seed: int | None = 0,
        federated: bool = False,
        not_exhaustive: bool | Sequence[str] = False,
        exclude_categories: str | Sequence[str] = (),
        only_categories: str | Sequence[str] = (),
        exclude_sources: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        # Check the arguments.
        if bad_annotations not in ('error', 'skip'):
            raise InputError(f"bad_annotations must be 'error' or 'skip', not {bad_annotations!r}")
        if not_exhaustive and not federated:
            raise InputError('not_exhaustive has no effect without federated=True; set both')
        if exclude_categories and only_categories:
            raise InputError('exclude_categories and only_categories cannot be combined; give one of them')
        # Set the attributes first, because the base class reads the file.
        self.bad_annotations, self.federated, self.not_exhaustive = bad_annotations, federated, not_exhaustive
        self.exclude_categories, self.only_categories = exclude_categories, only_categories
        self.exclude_sources = exclude_sources
        super().__init__(ann_file, *args, seed=seed, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read and check the annotation file; the entries have the form of MMDetection's ``CocoDataset``."""
        # Read and check. Remote images are not looked up, which is slow: loading a missing one fails.
        data = self._read_files()
        img_dir = self.data_prefix['img'] if image_backend_args(self) is None else None
        images, annotations = check_coco(data, self.ann_file, img_dir, skip=self.bad_annotations == 'skip')
        self.num_annotations = len(data['annotations'])
        # MMDetection leaves out boxes under one pixel.
        too_small = sum(min(annotation['bbox'][2:]) < 1 for annotation in annotations)
        self.num_left_out = self.num_annotations - len(annotations) + too_small
        if self.test_mode and (image := next((i for i in images if isinstance(i['id'], str)), None)):
            raise InputError(
                f'{self.ann_file}: the image id {image["id"]!r} is text, and evaluation needs numbers; '
                '`dinor1 validate --fix` numbers the images'
            )
        # Choose the classes and the images.
        choice = self._choose(data)
        if choice is not None:
            self._metainfo['classes'] = choice.names
            if not self.test_mode:
                images = [image for image in images if image['id'] in choice.image_ids]
        if self.exclude_sources and not self.test_mode:
            images = self._without_sources(images)
        self._set_classes(data['categories'])
        scopes = label_scopes(data, self.ann_file, self.not_exhaustive) if self.federated else None

        # Collect the annotations of each image.
        by_image, self.cat_img_map = defaultdict(list), defaultdict(list)
        for annotation in annotations:
            by_image[annotation['image_id']].append(annotation)
            self.cat_img_map[annotation['category_id']].append(annotation['image_id'])
            # MMDetection leaves out boxes whose area is not positive.
            if not (annotation.get('area') or 0) > 0:
                annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
        # Build the entries.
        data_list = []
        for image in images:
            info = self.parse_data_info(
                {'raw_img_info': image | {'img_id': image['id']}, 'raw_ann_info': by_image[image['id']]}
            )
            if scopes is not None:
                source = f'{self.ann_file}:{image["source"]}' if 'source' in image else self.ann_file
                info |= self._labels_of(scopes[image['id']]) | dict(source=source)
            data_list.append(info)
        return data_list

    def _read_files(self) -> dict:
        """Content of the annotation file, or the merged content of several."""
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
        """Content of the annotation file in COCO format; subclasses read other formats."""
        return read_json(path)

    def _labels_of(self, scope: LabelScope) -> dict[str, list[int]]:
        """The scope of an image, as labels instead of category ids."""
        return {
            f'{name}_labels': sorted(self.cat2label[i] for i in ids if i in self.cat2label)
            for name, ids in scope._asdict().items()
        }

    def _choose(self, data: dict) -> CategoryChoice | None:
        """Classes and images chosen by ``exclude_categories`` or ``only_categories``; None if neither is given."""
        listed = self.exclude_categories or self.only_categories
        if not listed:
            return None
        # Check that nothing else chooses classes.
        if 'classes' in self._metainfo:
            raise InputError(
                f"{self.ann_file}: metainfo['classes'] and exclude_categories or only_categories both choose classes; "
                'give one of them'
            )
        # A text file may be shared by several data sets; then names of other sets are ignored.
        shared = isinstance(listed, str)
        names = read_category_names(os.path.join(self.data_root, listed)) if shared else listed
        return choose_categories(data, self.ann_file, names, bool(self.exclude_categories), shared)

    def _without_sources(self, images: list[dict]) -> list[dict]:
        """The images that are of none of ``exclude_sources``."""
        # Check that the sources exist.
        known = sorted({str(image['source']) for image in images if 'source' in image})
        unknown = [name for name in self.exclude_sources if name not in known]
        if unknown:
            choices = f'the sources are {", ".join(known)}' if known else 'the images name no source'
            raise InputError(
                f"{self.ann_file}: no image has the source '{unknown[0]}': {choices}; correct exclude_sources"
            )
        # Leave out their images.
        kept = [image for image in images if image.get('source') not in self.exclude_sources]
        if not kept:
            raise InputError(f'{self.ann_file}: exclude_sources leaves no image; shorten it')
        return kept

    def _set_classes(self, categories: list[dict]) -> None:
        """Set the class names, their colours and the map from category ids to labels."""
        # Check the chosen class names.
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
        # Labels are indices into the class names.
        self.cat_ids = [ids[name] for name in classes]
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}
        self._metainfo['classes'] = classes
        self._metainfo.setdefault('palette', _palette(len(classes)))

    def filter_data(self) -> list[dict]:
        """Apply ``filter_cfg`` as MMDetection does.

        Raises:
            InputError: no image remains.
        """
        data_list = super().filter_data()
        if not data_list:
            raise InputError(f'{self.ann_file}: filter_cfg {self.filter_cfg} leaves no image; relax it')
        return data_list

    def full_init(self) -> None:
        """Read the annotations, as MMEngine does, and build the caches of ``LoadResizedImage`` in the pipeline."""
        if self._fully_initialized:
            return
        super().full_init()
        for transform in self.pipeline.transforms:
            if isinstance(transform, LoadResizedImage) and transform.cache is not None:
                transform.build_cache(self.get_data_info(i)['img_path'] for i in range(len(self)))

    @functools.cached_property
    def indices_by_source(self) -> dict[str | None, list[int]]:
        """Indices of the images of each source; the only key is None if the data set is not federated."""
        return indices_by_source(self)

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on one image.

        Raises:
            InputError: the file of the image is missing or is not an image.
        """
        info = self.get_data_info(idx)
        if not self.test_mode:
            info['same_source'] = SameSource(self, info.get('source'))
        try:
            return self.pipeline(info)
        except Exception as error:
            # The file is checked only after a failure, so that the check costs nothing; other errors are re-raised.
            path, backend = info['img_path'], image_backend_args(self)
            if isinstance(error, InputError) or can_decode(path, backend):
                raise
            try:
                check_image(path, backend)
            except InputError as reason:
                raise reason from error
            raise InputError(
                f'{path}: Pillow reads this image, and OpenCV, which loads the images of a data set, does not; convert '
                'it to JPEG or PNG'
            ) from error


def _palette(num_classes: int) -> list[tuple[int, int, int]]:
    """Bright RGB colours; steps of the golden ratio give neighbouring classes different hues."""
    golden = 0.618034
    return [
        tuple(round(255 * value) for value in colorsys.hsv_to_rgb(label * golden % 1, 0.75, 0.95))
        for label in range(num_classes)
    ]
