"""A small set on disk: images of blurred noise with two boxes each."""

import json
from pathlib import Path

import cv2

from tests.model_files import random_image

BOXES = ((5, 5, 25, 35), (40, 10, 30, 40))  # x, y, width, height


def write_small_set(root: Path, **counts: int) -> Path:
    """Write ``counts[split]`` images for each split, with a cat and a dog on each."""
    (root / 'images').mkdir(parents=True)
    (root / 'annotations').mkdir()
    categories = [dict(id=1, name='cat'), dict(id=2, name='dog')]
    for number, (split, count) in enumerate(counts.items()):
        images, annotations = [], []
        for i in range(count):
            name = f'{split}_{i}.png'
            cv2.imwrite(str(root / 'images' / name), random_image(60, 80, seed=100 * number + i))
            images.append(dict(id=100 * number + i, file_name=name, width=80, height=60))
            for category, box in enumerate(BOXES, 1):
                annotation = dict(image_id=100 * number + i, category_id=category, bbox=list(box), iscrowd=0)
                annotations.append(annotation | dict(id=len(annotations) + 1, area=box[2] * box[3]))
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / f'annotations/{split}.json').write_text(json.dumps(content))
    return root
