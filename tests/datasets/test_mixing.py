"""Mosaic and pasted instances: images of one source, boxes at the objects, and the scope of all parts."""

import json

import cv2
import numpy as np
import pytest
import torch

from dinor1.datasets import CocoPromptDataset
from dinor1.registry import DATASETS

KEYS = ('img_id', 'annotated_labels', 'exhaustive_labels')
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
PACK = dict(type='PackDetInputs', meta_keys=KEYS)
MOSAIC = dict(type='SameSourceMosaic', img_scale=(40, 40), pad_val=0)
# Grey levels of background and object by source; all are different.
LEVELS = dict(kitchen=(60, 100), bench=(160, 200))


def write(root, boxes=((10, 8, 20, 12),), lists=None, **options) -> dict:
    """Four images of each source, with objects of the category of the source; the arguments that read them."""
    # Draw images and boxes.
    images, annotations = [], []
    for i in range(8):
        source = 'kitchen' if i % 2 else 'bench'
        background, grey = LEVELS[source]
        pixels = np.full((40, 40, 3), background, np.uint8)
        for x, y, w, h in boxes:
            pixels[y : y + h, x : x + w] = grey
            category = 1 if source == 'kitchen' else 2
            annotation = dict(image_id=i, category_id=category, bbox=[x, y, w, h], area=w * h)
            annotations.append(annotation | dict(id=len(annotations)))
        cv2.imwrite(str(root / f'{i}.png'), pixels)
        images.append(dict(id=i, file_name=f'{i}.png', width=40, height=40, source=source))
        images[-1] |= {} if lists is None else lists(i)
    # Write the annotation file.
    sources = [dict(name='kitchen', exhaustive_category_ids=[1, 3]), dict(name='bench', exhaustive_category_ids=[2, 3])]
    categories = [dict(id=i, name=name) for i, name in enumerate(('cup', 'saw', 'cat'), 1)]
    data = dict(images=images, annotations=annotations, categories=categories, sources=sources)
    (root / 'train.json').write_text(json.dumps(data))
    return dict(data_root=str(root), ann_file='train.json', data_prefix=dict(img=''), federated=True, **options)


def build(source: dict, *transforms: dict) -> CocoPromptDataset:
    return CocoPromptDataset(**source, pipeline=[*LOAD, *transforms, PACK])


def image_of(sample) -> np.ndarray:
    return sample['inputs'][0].numpy()


def check_boxes_lie_on_objects(sample, object_level: int, tolerance: float = 0.0) -> None:
    """Check that almost all pixels of each box have the grey level of an object."""
    pixels = image_of(sample)
    for x1, y1, x2, y2 in sample['data_samples'].gt_instances.bboxes.tensor.round().long().tolist():
        inside = pixels[y1:y2, x1:x2]
        assert inside.size
        assert (np.abs(inside.astype(int) - object_level) <= 3).mean() >= 1 - tolerance


def test_mosaic_has_images_of_one_source(tmp_path):
    dataset = build(write(tmp_path), MOSAIC)
    for i in range(8):
        source = 'kitchen' if i % 2 else 'bench'
        sample = dataset[i]
        pixels = image_of(sample)
        assert pixels.shape == (80, 80)
        assert set(np.unique(pixels)) <= {0, *LEVELS[source]}
        truth = sample['data_samples'].gt_instances
        assert 1 <= len(truth) <= 4
        assert set(truth.labels.tolist()) == {0 if source == 'kitchen' else 1}
        check_boxes_lie_on_objects(sample, LEVELS[source][1])
        # Every object is inside a box.
        covered = np.zeros_like(pixels, dtype=bool)
        for x1, y1, x2, y2 in truth.bboxes.tensor.round().long().tolist():
            covered[y1:y2, x1:x2] = True
        assert ((pixels == LEVELS[source][1]) == covered).all()


def lists_by_image(i: int) -> dict:
    """Nuts are known to be absent from image 0 only."""
    return dict(neg_category_ids=[4] if i == 0 else [], not_exhaustive_category_ids=[3] if i == 2 else [])


def test_mosaic_scope_is_intersection_of_its_parts(tmp_path):
    source = write(tmp_path, lists=lists_by_image)
    content = json.loads((tmp_path / 'train.json').read_text())
    content['categories'].append(dict(id=4, name='nut'))
    (tmp_path / 'train.json').write_text(json.dumps(content))
    alone = build(source)
    scopes = {i: alone[i]['data_samples'] for i in range(8)}
    assert scopes[0].exhaustive_labels == [1, 2, 3]
    assert scopes[2].exhaustive_labels == [1]
    dataset = build(source, MOSAIC)
    seen = set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        sample = dataset[0]['data_samples']
        seen.add((tuple(sample.annotated_labels), tuple(sample.exhaustive_labels)))
    # Only image 0 is annotated for nuts; cats are not exhaustive in image 2.
    assert seen <= {((1, 2), (1, 2)), ((1, 2), (1,)), ((1, 2, 3), (1, 2, 3))}
    assert {((1, 2), (1, 2)), ((1, 2), (1,))} <= seen


def test_transforms_with_prob_zero_change_nothing(tmp_path):
    source = write(tmp_path)
    plain = build(source)
    for transform in (MOSAIC | dict(prob=0.0), dict(type='PasteInstances', prob=0.0)):
        dataset = build(source, transform)
        for i in range(8):
            assert torch.equal(dataset[i]['inputs'], plain[i]['inputs'])
            assert dataset[i]['data_samples'].exhaustive_labels == plain[i]['data_samples'].exhaustive_labels


@pytest.mark.parametrize('transform', [MOSAIC, dict(type='PasteInstances', prob=1.0)])
def test_mixing_depends_on_seed_and_epoch_only(tmp_path, transform):
    source = write(tmp_path)
    first, second = build(source, transform), build(source, transform)
    order = [5, 0, 3, 5]
    images = [image_of(first[i]) for i in order]
    for i, image in zip(reversed(order), reversed(images), strict=True):
        np.testing.assert_array_equal(image_of(second[i]), image)
    first.set_epoch(1)
    assert any(not np.array_equal(image_of(first[i]), image) for i, image in zip(order, images, strict=True))


def test_mosaic_draws_from_all_images_without_federated(tmp_path):
    source = write(tmp_path)
    source.pop('federated')
    dataset = build(source, MOSAIC)
    levels = {level for i in range(8) for level in np.unique(image_of(dataset[i])).tolist()}
    assert levels >= {60, 160}
    assert 'exhaustive_labels' not in dataset[0]['data_samples']


def test_mosaic_does_not_mix_concatenated_data_sets(tmp_path):
    parts = []
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        parts.append(dict(type='CocoPromptDataset', **write(tmp_path / name), pipeline=[*LOAD, MOSAIC, PACK]))
    dataset = DATASETS.build(dict(type='ConcatDataset', datasets=parts))
    alone = DATASETS.build(parts[1])
    np.testing.assert_array_equal(image_of(dataset[11]), image_of(alone[3]))


# Pasted instances -------------------------------------------------------------------------------------------


def test_paste_adds_instances_of_the_same_source_with_boxes(tmp_path):
    small = ((4, 6, 8, 8),)
    dataset = build(write(tmp_path, boxes=small), dict(type='PasteInstances', prob=1.0, fade=0.0, max_instances=2))
    counts = []
    for i in range(8):
        source = 'kitchen' if i % 2 else 'bench'
        sample = dataset[i]
        truth = sample['data_samples'].gt_instances
        counts.append(len(truth))
        assert set(np.unique(image_of(sample))) <= set(LEVELS[source])
        assert set(truth.labels.tolist()) == {0 if source == 'kitchen' else 1}
        check_boxes_lie_on_objects(sample, LEVELS[source][1])
        width, height = (truth.bboxes.tensor[1:, 2:] - truth.bboxes.tensor[1:, :2]).unbind(-1)
        assert ((width >= 4) & (width <= 12) & (width == height)).all()
    assert max(counts) == 2


def test_paste_fades_the_border(tmp_path):
    dataset = build(
        write(tmp_path, boxes=((2, 2, 16, 16),)),
        dict(type='PasteInstances', prob=1.0, fade=0.25, scale_range=(1, 1), max_overlap=0.0),
    )
    background, grey = LEVELS['bench']
    pasted = [
        sample for sample in map(dataset.__getitem__, (0, 2, 4, 6)) if len(sample['data_samples'].gt_instances) > 1
    ]
    assert pasted
    for sample in pasted:
        x1, y1, x2, y2 = sample['data_samples'].gt_instances.bboxes.tensor[1].long().tolist()
        row = image_of(sample)[(y1 + y2) // 2, x1:x2].astype(int)
        assert (row[4:-4] == grey).all()
        # The first pixel is half a pixel inside a border of four pixels: its weight is 1/8.
        assert row[0] == row[-1] == background + (grey - background) // 8
        assert (np.diff(row[:4]) > 0).all()


def test_paste_skips_boxes_that_contain_another_object(tmp_path):
    """Only the inner box is pasted: with the outer one, the inner object would have no box."""
    boxes = ((2, 2, 20, 20), (6, 6, 8, 8))
    dataset = build(
        write(tmp_path, boxes=boxes), dict(type='PasteInstances', prob=1.0, scale_range=(1, 1), max_instances=3)
    )
    sizes = set()
    for i in range(8):
        truth = dataset[i]['data_samples'].gt_instances.bboxes.tensor[2:]
        sizes |= {tuple(size) for size in (truth[:, 2:] - truth[:, :2]).tolist()}
    assert sizes == {(8.0, 8.0)}


def test_paste_without_free_position_changes_nothing(tmp_path):
    """A paste would cover an object that fills its image; image and scope stay unchanged."""
    source = write(tmp_path, boxes=((0, 0, 40, 40),), lists=lists_by_image)
    content = json.loads((tmp_path / 'train.json').read_text())
    content['categories'].append(dict(id=4, name='nut'))
    (tmp_path / 'train.json').write_text(json.dumps(content))
    dataset = build(source, dict(type='PasteInstances', prob=1.0, scale_range=(0.9, 1.0)))
    assert len(dataset[0]['data_samples'].gt_instances) == 1
    assert dataset[0]['data_samples'].exhaustive_labels == [1, 2, 3]
