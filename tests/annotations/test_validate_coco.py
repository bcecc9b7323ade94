"""validate_dataset: defects of COCO files, their reports with location and remedy, and repairs."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from dinor1.annotations import KINDS, check_path, repair
from dinor1.datasets.validation import check_coco
from dinor1.utils.errors import InputError
from tests.annotations.samples import COCO_DEFECTS, edit, every, make_content, save


@pytest.mark.parametrize(('kind', 'damage', 'shown'), COCO_DEFECTS)
def test_defect_report_has_location_and_remedy(validate, root, kind, damage, shown):
    content = make_content()
    damage(content)
    file = save(root, content)
    outcome = validate(file)
    assert outcome.status == (KINDS[kind].severity == 'error' or 'error:' in outcome.out)
    assert f'{KINDS[kind].severity}: {kind}' in outcome.out, outcome.out
    case = outcome.out.split(f'{KINDS[kind].severity}: {kind}')[1]
    assert shown in case.split('remedy:')[0]
    assert f'remedy: {KINDS[kind].remedy}' in case
    assert str(file) in outcome.out


# Defects that a training run cannot detect at its start, because it does not open the images, and those that only
# evaluation or a language model rejects.
NOT_SEEN_AT_LOAD = {
    'image under another name',
    'missing image',
    'width and height exchanged',
    'wrong image size',
    'image id as text',
    'class name without a word',
}


@pytest.mark.parametrize(
    ('kind', 'damage'),
    [(k, d) for k, d, _ in COCO_DEFECTS if KINDS[k].severity == 'error' and k not in NOT_SEEN_AT_LOAD],
)
def test_errors_are_rejected_by_training(kind, damage):
    content = make_content()
    damage(content)
    content = json.loads(json.dumps(content))
    with pytest.raises(InputError):
        check_coco(content, 'train.json', None)
    if KINDS[kind].blocking:
        # Blocking defects cannot be skipped, because the remaining annotations may be wrong.
        with pytest.raises(InputError):
            check_coco(copy.deepcopy(content), 'train.json', None, skip=True)


BEYOND_REPAIR = {kind for kind in KINDS if KINDS[kind].blocking}


@pytest.mark.parametrize(('kind', 'damage'), [(k, d) for k, d, _ in COCO_DEFECTS if KINDS[k].repair])
def test_repair_removes_errors_and_changes_nothing_else(validate, root, kind, damage):
    content = make_content()
    damage(content)
    file = save(root, content)
    before = file.read_bytes()
    outcome = validate(file, '--fix', root / 'annotations/repaired.json', '--img-dir', root / 'images')
    assert file.read_bytes() == before
    repaired = root / 'annotations/repaired.json'
    assert f'x {kind}' in outcome.err
    if kind == 'incomplete category':
        return
    assert outcome.status == 0, outcome.out
    again = validate(repaired)
    assert again.status == 0
    assert kind not in again.out
    # At most the defective record is removed, or one image with its annotations.
    left = json.loads(repaired.read_text())
    assert len(left['images']) >= 3
    assert len(left['annotations']) >= 8
    untouched = [a for a in left['annotations'] if a in make_content()['annotations']]
    assert len(untouched) >= len(left['annotations']) - 4


@pytest.mark.parametrize('kind', sorted({k for k, _, _ in COCO_DEFECTS} & BEYOND_REPAIR))
def test_blocking_defect_is_not_repaired(validate, root, kind):
    content = make_content()
    next(damage for k, damage, _ in COCO_DEFECTS if k == kind)(content)
    outcome = validate(save(root, content), '--fix', root / 'repaired.json')
    assert outcome.status == 1
    assert not (root / 'repaired.json').exists()
    assert f'not repaired, because of {kind}' in outcome.err


def test_repair_writes_certain_values(validate, root):
    content = make_content()
    edit('annotations', 0, bbox=[50, 2, 20, 9], area=180)(content)
    edit('annotations', 1, id=1)(content)
    edit('annotations', 2, bbox=['5', 5, '20', 30])(content)
    edit('annotations', 3, category_id='2')(content)
    edit('annotations', 4, area=0)(content)
    edit('images', 3, width=48, height=64)(content)
    content['categories'].append(dict(id=9, name='apple '))
    edit('annotations', 5, category_id=9)(content)
    out = root / 'annotations/repaired.json'
    assert validate(save(root, content), '--fix', out).status == 0
    left = json.loads(out.read_text())
    boxes = {a['id']: a for a in left['annotations']}
    assert boxes[1]['bbox'] == [50, 2, 14, 9]
    assert boxes[1]['area'] == 126
    assert sorted(boxes) == [1, *range(3, 14)]
    assert boxes[13]['image_id'] == 3
    assert boxes[3]['bbox'] == [5, 5, 20, 30]
    assert boxes[4]['category_id'] == 2
    assert boxes[5]['area'] == 25 * 30
    # 'apple ' is stripped, and then merged with 'apple'.
    assert boxes[6]['category_id'] == 1
    assert [c['name'] for c in left['categories']] == ['apple', 'pear', 'plum']
    assert (left['images'][3]['width'], left['images'][3]['height']) == (64, 48)


def test_different_records_of_one_image_id_are_not_repaired(validate, root):
    content = make_content()
    edit('images', 3, id=1)(content)
    outcome = validate(save(root, content), '--fix', root / 'repaired.json')
    assert outcome.status == 1
    assert outcome.out.count('duplicate image id') == 2


def test_repair_that_leaves_no_image_is_rejected(root):
    content = make_content()
    every('images', lambda image: image.update(file_name=f'absent{image["id"]}.png'))(content)
    results, _ = check_path(save(root, content), img_dir=root / 'images')
    with pytest.raises(InputError, match='no image would be left'):
        repair(results[0])


POLYGON = [[10, 12, 30, 12, 30, 40.5, 10, 40.5], [5, 20, 8, 20, 8, 22]]


def runs(compressed):
    """A run-length encoding of the rectangle x 10..29, y 12..39, in 64 x 48 pixels."""
    mask = np.zeros((48, 64), np.uint8, order='F')
    mask[12:40, 10:30] = 1
    if compressed:
        encoded = coco_mask.encode(mask)
        return dict(encoded, counts=encoded['counts'].decode())
    flat = mask.flatten(order='F')
    edges = np.flatnonzero(np.diff(flat)) + 1
    return dict(size=[48, 64], counts=np.diff([0, *edges.tolist(), flat.size]).tolist())


@pytest.mark.parametrize(
    ('segmentation', 'box'),
    [
        (POLYGON, [5, 12, 25, 28.5]),
        (runs(True), [10, 12, 20, 28]),
        (runs(False), [10, 12, 20, 28]),
        (runs(True) | dict(size=[48.0, 64.0]), [10, 12, 20, 28]),
    ],
)
def test_repair_adds_boxes_of_segmentations_and_ids(validate, root, segmentation, box):
    """Some tools write annotations without id and box: none may be lost."""
    content = make_content()
    content['annotations'] = content['annotations'][:3]
    for annotation in content['annotations']:
        del annotation['id'], annotation['bbox']
        annotation['segmentation'] = segmentation
    fixed = root / 'annotations/fixed.json'
    outcome = validate(save(root, content), '--fix', fixed, '--img-dir', root / 'images')
    assert 'corrected: 3 x no box, 3 x no id; left out: nothing;' in outcome.err
    assert '0 of 3 annotations were removed' in outcome.err
    repaired = json.loads(fixed.read_text())['annotations']
    assert [a['bbox'] for a in repaired] == [box] * 3
    assert len({a['id'] for a in repaired}) == 3


@pytest.mark.parametrize(
    'segmentation',
    [
        None,
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 'x']],
        dict(size=[48, 64], counts=[1, 2]),
        dict(size=[9, 9], counts='1'),
        dict(size=[48, 64], counts=[[1]]),
        dict(size=[10**400, 64], counts=[1, 2]),
        [[1, 2, 10**400, 4, 5, 6]],
        # Texts that end within a number, or are not of this encoding.
        dict(size=[48, 64], counts='1P'),
        dict(size=[48, 64], counts='中'),
        dict(size=[48, 64], counts=''),
    ],
)
def test_repair_that_leaves_no_annotation_is_rejected(validate, root, segmentation):
    content = make_content()
    for annotation in content['annotations']:
        del annotation['bbox']
        annotation['segmentation'] = segmentation
    outcome = validate(save(root, content), '--fix', root / 'fixed.json', '--img-dir', root / 'images')
    assert outcome.status == 1
    assert 'not repaired, because no annotation would be left (left out: 12 x no box)' in outcome.err
    assert not (root / 'fixed.json').exists()


@pytest.mark.parametrize('wrong', [None, True, [1], float('nan'), 1.5, 10**20])
def test_repair_numbers_annotations_with_an_unusable_id(validate, root, wrong):
    """Tables write a missing id as null or NaN; the boxes are kept."""
    content = make_content()
    for annotation in content['annotations'][:5]:
        annotation['id'] = wrong
    content['annotations'][5]['id'] = 2**63 - 1
    fixed = root / 'annotations/fixed.json'
    outcome = validate(save(root, content), '--fix', fixed, '--img-dir', root / 'images')
    assert '0 of 12 annotations were removed' in outcome.err
    repaired = json.loads(fixed.read_text())['annotations']
    assert [a['bbox'] for a in repaired] == [a['bbox'] for a in make_content()['annotations']]
    assert len({a['id'] for a in repaired}) == 12
    assert validate(fixed, '--img-dir', root / 'images').status == 0


def test_repair_counts_left_out_and_corrected_records(validate, root):
    content = make_content()
    content['annotations'][0]['bbox'] = [1, 2, 0, 9]
    del content['annotations'][1]['iscrowd']
    outcome = validate(save(root, content), '--fix', root / 'fixed.json', '--img-dir', root / 'images')
    assert 'corrected: 1 x no iscrowd; left out: 1 x box without area; 1 of 12 annotations were removed' in outcome.err


@pytest.mark.parametrize(
    'change',
    [
        dict(image_id=2.0, id=2.0),
        dict(image_id='2'),
        dict(id=None),
        dict(bbox=None),
        dict(bbox=[]),
        dict(bbox=[1, float('nan'), 3, 4]),
        dict(bbox=[0, 0, 0, 0]),
    ],
)
def test_repair_uses_the_segmentation_despite_other_defects(validate, root, change):
    content = make_content()
    content['annotations'] = content['annotations'][:3]
    annotation = next(a for a in content['annotations'] if a['image_id'] == 2)
    if 'bbox' not in change:
        del annotation['bbox']
    annotation.update(segmentation=POLYGON, **change)
    fixed = root / 'annotations/fixed.json'
    outcome = validate(save(root, content), '--fix', fixed, '--img-dir', root / 'images')
    assert '0 of 3 annotations were removed' in outcome.err
    repaired = [a for a in json.loads(fixed.read_text())['annotations'] if a['image_id'] == 2]
    assert [a['bbox'] for a in repaired] == [[5, 12, 25, 28.5]]
    assert all(type(a['id']) is int for a in repaired)
