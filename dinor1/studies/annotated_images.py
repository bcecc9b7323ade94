"""Images of a small set with the boxes of all objects, and detections of an inferencer on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinor1.inference import DINOR1Inferencer
from dinor1.studies.annotator import Objects
from dinor1.studies.protocol_baselines import SmallSet

NMS_THR = 0.7


@dataclass
class AnnotatedImages:
    """Images with all of their objects, without crowd boxes.

    Attributes:
        paths: n image files.
        objects: The objects of each image.
        names: Class names by label.
        image_ids: n ids in the annotation file.
        category_ids: (K,) category id of each label.
        content: Content of the annotation file, with these images only.
    """

    paths: list[str]
    objects: list[Objects]
    names: tuple[str, ...]
    image_ids: list[int]
    category_ids: np.ndarray
    content: dict[str, Any]

    @classmethod
    def read(cls, root: str | Path, splits: Sequence[str], count: int | None = None) -> 'AnnotatedImages':
        """Read all images of some splits, or ``count`` evenly spaced ones.

        Args:
            root: Folder with ``images`` and ``annotations/SPLIT.json``.
            splits: Names of the splits; those without a file are left out.
            count: Maximum number of images.

        Raises:
            InputError: none of the splits has a file.
        """
        # Choose the images.
        small = SmallSet.read(root, splits)
        total = len(small.dataset)
        chosen = np.unique(np.linspace(0, total - 1, min(count or total, total)).astype(int))
        infos = [small.dataset.get_data_info(int(i)) for i in chosen]
        # Collect their objects.
        objects = []
        for info in infos:
            own = [instance for instance in info['instances'] if not instance.get('ignore_flag', 0)]
            objects.append(Objects.of([i['bbox'] for i in own], [i['bbox_label'] for i in own]))
        # Restrict the content of the annotation file to these images.
        ids = [info['img_id'] for info in infos]
        kept = set(ids)
        content = small.content | dict(
            images=[image for image in small.content['images'] if image['id'] in kept],
            annotations=[a for a in small.content['annotations'] if a['image_id'] in kept],
        )
        names = tuple(small.dataset.metainfo['classes'])
        return cls([info['img_path'] for info in infos], objects, names, ids, small.category_ids, content)

    def labelled(self, indices: Sequence[int]) -> dict[str, list]:
        """Files, boxes and names of some images, as arguments of ``adapt`` of the inferencer."""
        return dict(
            images=[self.paths[i] for i in indices],
            boxes=[self.objects[i].boxes.tolist() for i in indices],
            names=[[self.names[label] for label in self.objects[i].labels] for i in indices],
        )

    def set_prompts(self, inferencer: DINOR1Inferencer, indices: Sequence[int]) -> None:
        """Prompt with all boxes of some images."""
        arguments = self.labelled(indices)
        inferencer.set_prompts(visual=list(zip(*arguments.values(), strict=True)))

    def detect(
        self, inferencer: DINOR1Inferencer, indices: Sequence[int], score_thr: float, nms_thr: float | None = NMS_THR
    ) -> list[Objects]:
        """Detections of the current prompts on some images."""
        paths = [self.paths[i] for i in indices]
        records: Any = inferencer.predict(paths, score_thr=score_thr, nms_thr=nms_thr, as_dict=True)
        labels = {name: label for label, name in enumerate(self.names)}
        return [Objects.of(r['bboxes'], [labels[name] for name in r['names']], r['scores']) for r in records]


def shown_set(root: str) -> str:
    """Path of the folder of a set for the documentation: the part from the last folder ``data`` on."""
    parts = Path(root).parts
    return '/'.join(('data', *parts[len(parts) - parts[::-1].index('data') :])) if 'data' in parts else root
