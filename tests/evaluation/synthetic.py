"""Synthetic annotations and detections for the comparison of metrics."""

import numpy as np
import torch

from dinor1.evaluation.detections import Detections

CROWDED = dict(num_images=6, num_classes=3, boxes=25, detections=400)
IDS = np.array([3, 8])  # of the categories of scene()
SPARSE = dict(num_images=25, num_classes=40, boxes=6, detections=40)


def random_box(rng) -> list[float]:
    """(x, y, width, height); sides from 7 to 240 pixels reach all three area ranges."""
    return [*rng.uniform(0, 400, 2).tolist(), *np.exp(rng.uniform(2, 5.5, 2)).tolist()]


def shaken(box: list[float], rng) -> list[float]:
    """A box whose IoU with ``box`` is between 0.3 and 1."""
    noise = rng.normal(size=4) * rng.uniform(0, 0.2) * np.array([box[2], box[3]] * 2)
    moved = np.array(box) + noise
    return [*moved[:2].tolist(), *np.maximum(moved[2:], 1).tolist()]


def detect(content: dict, rng, per_image: int) -> list[dict]:
    """Noisy detections in COCO result format: of a box, of a box with another class, or of background.

    Scores are multiples of 0.01, so that many are equal.
    """
    # Collect the boxes of each image.
    categories = [category['id'] for category in content['categories']]
    boxes = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        boxes[annotation['image_id']].append((annotation['category_id'], annotation['bbox']))
    # Draw detections, most of them near a box.
    results = []
    for image, present in boxes.items():
        for _ in range(per_image):
            if present and rng.random() < 0.7:
                category, box = present[rng.integers(len(present))]
                box = shaken(box, rng)
                if rng.random() < 0.15:
                    category = int(rng.choice(categories))
            else:
                category, box = int(rng.choice(categories)), random_box(rng)
            score = round(float(rng.random()), 2)
            results.append(dict(image_id=image, category_id=category, bbox=box, score=score))
    return results


def federated(rng, num_images: int, num_classes: int, boxes: int, detections: int) -> tuple[dict, list[dict]]:
    """LVIS annotations and detections; ids have gaps and are not in order, one image has no box."""
    categories = [dict(id=5 * k + 2, name=f'class {k}', frequency='rcf'[k % 3]) for k in range(num_classes)]
    ids = [category['id'] for category in categories]
    images, annotations = [], []
    for i in rng.permutation(num_images).tolist():
        present = rng.choice(ids, size=min(num_classes, max(1, boxes // 2)), replace=False)
        absent = np.setdiff1d(rng.choice(ids, size=max(1, num_classes // 4), replace=False), present)
        image = dict(id=11 * i + 4, file_name=f'{i}.jpg', width=640, height=480, neg_category_ids=absent.tolist())
        image['not_exhaustive_category_ids'] = [int(c) for c in present if rng.random() < 0.2]
        images.append(image)
        for _ in range(rng.integers(1, 2 * boxes) if i else 0):
            box = random_box(rng)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image['id'],
                    category_id=int(rng.choice(present)),
                    bbox=box,
                    # Area of the mask, sometimes exactly at the limit of two area ranges.
                    area=32.0**2 if rng.random() < 0.05 else box[2] * box[3] * float(rng.uniform(0.3, 1)),
                    ignore=int(rng.random() < 0.05),
                )
            )
    content = dict(info={}, images=images, annotations=annotations, categories=categories[::-1])
    return content, detect(content, rng, detections)


def coco(rng, num_images: int, num_classes: int, boxes: int, detections: int) -> tuple[dict, list[dict]]:
    """COCO annotations with crowds, and detections."""
    content, _ = federated(rng, num_images, num_classes, boxes, 0)
    for annotation in content['annotations']:
        annotation['iscrowd'] = int(rng.random() < 0.15)
        annotation.pop('ignore')
    return content, detect(content, rng, detections)


def as_samples(content: dict, results: list[dict]) -> list[dict]:
    """Detections in the output format of a detector: one sample per image, float32 tensors, boxes xyxy."""
    labels = {id: label for label, id in enumerate(sorted(category['id'] for category in content['categories']))}
    samples = []
    for image in content['images']:
        own = [result for result in results if result['image_id'] == image['id']]
        boxes = torch.tensor([result['bbox'] for result in own], dtype=torch.float32).reshape(-1, 4)
        predicted = dict(
            bboxes=torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            scores=torch.tensor([result['score'] for result in own], dtype=torch.float32),
            labels=torch.tensor([labels[result['category_id']] for result in own], dtype=torch.int64),
        )
        samples.append(dict(img_id=image['id'], ori_shape=(480, 640), pred_instances=predicted))
    return samples


def as_results(content: dict, samples: list[dict]) -> list[dict]:
    """Output of a detector in COCO result format, in its precision."""
    ids = sorted(category['id'] for category in content['categories'])
    results = []
    for sample in samples:
        predicted = sample['pred_instances']
        columns = (predicted[key].double().tolist() for key in ('bboxes', 'scores', 'labels'))
        for (x1, y1, x2, y2), score, label in zip(*columns, strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append(dict(image_id=sample['img_id'], category_id=ids[int(label)], bbox=box, score=score))
    return results


def perfect(content: dict) -> list[dict]:
    """Samples of a detector that returns the ground truth."""
    results = [
        dict(image_id=a['image_id'], category_id=a['category_id'], bbox=a['bbox'], score=0.9)
        for a in content['annotations']
    ]
    return as_samples(content, results)


def as_detections(results: list[dict], category_ids: list[int]) -> Detections:
    """Results as arrays; ``image`` is the image id and ``label`` the index into ``category_ids``."""
    return Detections(
        np.array([r['image_id'] for r in results], dtype=np.int64),
        np.array([category_ids.index(r['category_id']) for r in results], dtype=np.int64),
        np.array([r['score'] for r in results], dtype=np.float64),
        np.array([r['bbox'] for r in results], dtype=np.float64).reshape(-1, 4),
        np.zeros(len(results), dtype=np.int32),
    )


def scene(*boxes: tuple) -> dict:
    """``scene((image, category, bbox, iscrowd), ...)``."""
    annotations = [
        dict(id=i, image_id=image, category_id=category, bbox=list(box), area=box[2] * box[3], iscrowd=crowd)
        for i, (image, category, box, crowd) in enumerate(boxes, 1)
    ]
    images = [dict(id=i, width=640, height=480) for i in (1, 2)]
    return dict(images=images, annotations=annotations, categories=[dict(id=3, name='nut'), dict(id=8, name='bolt')])


def results(*rows: tuple) -> list[dict]:
    """``results((image, category, bbox, score), ...)``."""
    return [dict(zip(('image_id', 'category_id', 'bbox', 'score'), row, strict=True)) for row in rows]
