"""Converters: MMDetection and dinor1 read the converted files, and find the boxes of the source."""

import json

import cv2
import numpy as np
import pytest
from mmdet.datasets import Objects365V1Dataset, Objects365V2Dataset, ODVGDataset, V3DetDataset
from mmengine.config import Config

from dinor1.annotations import check_path
from dinor1.annotations.convert import to_odvg
from dinor1.annotations.objects365 import CORRECTIONS, MISSING, corrected, short_name
from dinor1.datasets import CocoPromptDataset
from dinor1.datasets.odvg import ODVGPromptDataset
from dinor1.evaluation import draw_exemplars
from dinor1.registry import DATASETS
from dinor1.utils.errors import InputError
from tests.datasets.conftest import _frozen_imports  # noqa: F401  (a fixture)


def make_content() -> dict:
    """Annotations with unsorted category ids with gaps; a crowd, an ignored, a flat, a tiny and two good boxes."""
    images = [dict(id=7, file_name='a.png', width=64, height=48), dict(id=3, file_name='b/b.png', width=48, height=64)]
    categories = [dict(id=50, name='zebra'), dict(id=2, name='apple'), dict(id=9, name='lamp')]
    boxes = [
        dict(category_id=50, bbox=[2.3, 3.1, 10.4, 8.7]),
        dict(category_id=9, bbox=[1, 1, 20, 20], iscrowd=1),
        dict(category_id=9, bbox=[1, 1, 20, 20], ignore=1),
        dict(category_id=2, bbox=[1, 1, 0, 20]),
        dict(category_id=2, bbox=[1, 1, 0.5, 20]),
        dict(category_id=2, bbox=[30, 20, 34, 28]),
    ]
    annotations = [dict(dict(iscrowd=0, area=100) | box, id=i, image_id=7) for i, box in enumerate(boxes)]
    return dict(images=images, categories=categories, annotations=annotations)


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_images(folder, images):
    for image in images:
        path = folder / image['file_name']
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((image['height'], image['width'], 3), np.uint8))


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def instances(dataset) -> dict:
    """Image file -> its boxes and labels, without ignored boxes."""
    return {
        info['img_path']: [(i['bbox'], i['bbox_label']) for i in info['instances'] if not i['ignore_flag']]
        for info in map(dataset.get_data_info, range(len(dataset)))
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for path, boxes in expected.items():
        assert [label for _, label in found[path]] == [label for _, label in boxes]
        # Corners are rounded to a millionth of a pixel.
        ours, theirs = (np.array([box for box, _ in one]).reshape(-1, 4) for one in (found[path], boxes))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


# ------------------------------------------------------------------------ COCO to ODVG


def odvg_readers(folder, img_dir):
    kwargs = dict(ann_file=str(folder / 'od.jsonl'), data_prefix=dict(img=str(img_dir)))
    label_map = str(folder / 'od_label_map.json')
    theirs = ODVGDataset(**kwargs, label_map_file=label_map, return_classes=True, serialize_data=False)
    ours = ODVGPromptDataset(**kwargs, serialize_data=False)
    return theirs, ours


def test_coco2odvg_keeps_boxes_of_training(call, tmp_path):
    # Convert.
    content = make_content()
    write_images(tmp_path / 'images', content['images'])
    source = save(tmp_path / 'train.json', content)
    outcome = call('dataset_converters/coco2odvg', source, tmp_path / 'od.jsonl')
    assert outcome.status == 0, outcome.err
    assert 'left out: 1 x box under one pixel, 1 x box without area, 1 x crowd, 1 x ignore' in outcome.out

    # Compare the boxes with those of the COCO file.
    coco = CocoPromptDataset(
        ann_file=str(source), data_prefix=dict(img=str(tmp_path / 'images')), bad_annotations='skip'
    )
    theirs, ours = odvg_readers(tmp_path, tmp_path / 'images')
    assert len(instances(coco)[str(tmp_path / 'images/a.png')]) == 2
    for dataset in (theirs, ours):
        assert_same(instances(dataset), instances(coco))
    assert coco.metainfo['classes'] == ours.metainfo['classes'] == ('apple', 'lamp', 'zebra')
    assert theirs.get_data_info(0)['text'] == {'0': 'apple', '1': 'lamp', '2': 'zebra'}
    assert lines_of(tmp_path / 'od.jsonl')[0]['detection']['instances'][0] == {
        'bbox': [2.3, 3.1, 12.7, 11.8],
        'label': 2,
        'category': 'zebra',
    }


@pytest.mark.shared
def test_coco2odvg_of_coco_mini(call, shared_dir, tmp_path):
    root = shared_dir / 'data/coco_mini'
    assert call('dataset_converters/coco2odvg', root / 'annotations/train.json', tmp_path / 'od.jsonl').status == 0
    coco = CocoPromptDataset(ann_file=str(root / 'annotations/train.json'), data_prefix=dict(img=str(root / 'images')))
    theirs, ours = odvg_readers(tmp_path, root / 'images')
    for dataset in (theirs, ours):
        assert_same(instances(dataset), instances(coco))
    assert ours.metainfo['classes'] == coco.metainfo['classes']
    assert len(ours) == 92
    results, _ = check_path(tmp_path / 'od.jsonl', img_dir=root / 'images')
    assert results[0].errors == []
    assert len(results[0].image_files) == 92


def test_coco2odvg_label_map_option(call, tmp_path):
    source = save(tmp_path / 'train.json', make_content())
    names = tmp_path / 'maps/names.json'
    assert call('dataset_converters/coco2odvg', source, tmp_path / 'od.jsonl', '--label-map', names).status == 0
    assert json.loads(names.read_text()) == {'0': 'apple', '1': 'lamp', '2': 'zebra'}
    assert not (tmp_path / 'od_label_map.json').exists()


def test_coco2odvg_keeps_label_map_of_another_set(call, tmp_path):
    content = make_content()
    source, names = save(tmp_path / 'train.json', content), tmp_path / 'names.json'
    options = ('--label-map', names)
    assert call('dataset_converters/coco2odvg', source, tmp_path / 'a.jsonl', *options).status == 0
    before = names.read_bytes()
    # A split with the same classes shares it.
    assert call('dataset_converters/coco2odvg', source, tmp_path / 'b.jsonl', *options).status == 0
    # Other classes are another set.
    content['categories'][0]['name'] = 'horse'
    save(source, content)
    outcome = call('dataset_converters/coco2odvg', source, tmp_path / 'c.jsonl', *options)
    assert outcome.status == 2
    assert outcome.err == (
        f'error: {names}: holds other class names, perhaps of another set; give another --label-map, or remove it\n'
    )
    assert names.read_bytes() == before
    assert not (tmp_path / 'c.jsonl').exists()
    # A file that is converted again replaces its own label map.
    for _ in range(2):
        assert call('dataset_converters/coco2odvg', source, tmp_path / 'd.jsonl').status == 0
        content['categories'][0]['name'] = 'donkey'
        save(source, content)


def test_coco2odvg_without_ids_and_boxes(call, tmp_path):
    """Boxes are computed from segmentations; ids are not needed."""
    content = make_content()
    for annotation in content['annotations']:
        x, y, width, height = annotation.pop('bbox')
        del annotation['id']
        right, bottom = x + width, y + height
        annotation['segmentation'] = [[x, y, right, y, right, bottom, x, bottom]]
    # The polygon of the flat box has no area.
    outcome = call('dataset_converters/coco2odvg', save(tmp_path / 'train.json', content), tmp_path / 'od.jsonl')
    assert outcome.status == 0
    assert 'left out: 1 x box under one pixel, 1 x crowd, 1 x ignore, 1 x no box' in outcome.out
    found = [i['bbox'] for line in lines_of(tmp_path / 'od.jsonl') for i in line['detection']['instances']]
    np.testing.assert_allclose(found, [[2.3, 3.1, 12.7, 11.8], [30, 20, 64, 48]])


@pytest.mark.parametrize('wrong', [None, True, float('nan'), 10**20])
@pytest.mark.parametrize('box', [None, [], [0, 0, 0, 0], [1, float('nan'), 3, 4]])
def test_coco2odvg_with_unusable_ids_and_boxes(call, tmp_path, wrong, box):
    content = make_content()
    content['annotations'] = content['annotations'][-1:]
    content['annotations'][0].update(id=wrong, bbox=box, segmentation=[[30, 20, 64, 20, 64, 48]])
    outcome = call('dataset_converters/coco2odvg', save(tmp_path / 'train.json', content), tmp_path / 'od.jsonl')
    assert outcome.status == 0, outcome.err
    assert 'left out: nothing' in outcome.out
    assert [i['bbox'] for i in lines_of(tmp_path / 'od.jsonl')[0]['detection']['instances']] == [[30, 20, 64, 48]]


def test_coco2odvg_with_only_defective_annotations(call, tmp_path):
    content = make_content()
    for annotation in content['annotations']:
        del annotation['bbox']
    outcome = call('dataset_converters/coco2odvg', save(tmp_path / 'train.json', content), tmp_path / 'od.jsonl')
    assert outcome.status == 2
    assert 'all 6 annotations are defective (6 x no box)' in outcome.err
    assert not (tmp_path / 'od.jsonl').exists()


@pytest.mark.parametrize(
    ('tool', 'change', 'out', 'message'),
    [
        ('coco2odvg', lambda c: c.pop('images'), 'od.jsonl', "no list 'images'"),
        ('coco2odvg', lambda c: c['categories'][0].update(id=2), 'od.jsonl', 'id 2 occurs 2 times'),
        ('coco2odvg', lambda c: [c['categories'][i].update(id=i) for i in range(3)], 'od.jsonl', 'of another list'),
        ('coco2odvg', lambda c: None, 'train.json', 'would be overwritten'),
        ('lvis2odvg', lambda c: None, 'od.jsonl', 'is a file in COCO format; use `dinor1 convert coco2odvg`'),
        (
            'coco2odvg',
            lambda c: c['images'][0].update(neg_category_ids=[]),
            'od.jsonl',
            'use `dinor1 convert lvis2odvg`',
        ),
    ],
)
def test_odvg_converters_reject_bad_input(call, tmp_path, tool, change, out, message):
    content = make_content()
    change(content)
    source = save(tmp_path / 'train.json', content)
    before = source.read_bytes()
    outcome = call(f'dataset_converters/{tool}', source, tmp_path / out)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert source.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ['train.json']


@pytest.mark.parametrize(
    ('label_map', 'message'),
    [
        ('od.jsonl', 'od.jsonl: is the path of both the lines and the label map'),
        ('new/../od.jsonl', 'od.jsonl: is the path of both the lines and the label map'),
        ('train.json', 'would be overwritten'),
        ('folder', 'is a folder'),
        ('train.json/names.json', 'train.json is not a folder'),
    ],
)
def test_coco2odvg_writes_both_outputs_or_none(call, tmp_path, label_map, message):
    source = save(tmp_path / 'train.json', make_content())
    (tmp_path / 'folder').mkdir()
    options = ['--label-map', tmp_path / label_map]
    outcome = call('dataset_converters/coco2odvg', source, tmp_path / 'od.jsonl', *options)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.rglob('*')) == ['folder', 'train.json']


def test_to_odvg_failure_between_outputs_leaves_none(tmp_path, monkeypatch):
    source = save(tmp_path / 'train.json', make_content())
    # The error is raised after the lines are written and before the label map is.
    monkeypatch.setattr('pathlib.Path.write_text', lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        to_odvg(source, tmp_path / 'od.jsonl', 'COCO')
    assert [path.name for path in tmp_path.iterdir()] == ['train.json']


def test_coco2odvg_rejects_category_ids_off_by_one(call, tmp_path):
    content = make_content()
    content['categories'] = [dict(id=i, name=name) for i, name in enumerate(('apple', 'lamp', 'zebra'), start=1)]
    for i, annotation in enumerate(content['annotations']):
        annotation['category_id'] = i % 3
    outcome = call('dataset_converters/coco2odvg', save(tmp_path / 'train.json', content), tmp_path / 'od.jsonl')
    assert outcome.status == 2
    assert 'category ids off by one' in outcome.err


# ------------------------------------------------------------------------ LVIS to ODVG


def test_lvis2odvg_names_images_by_url(call, tmp_path):
    content = make_content()
    for image in content['images']:
        name = image.pop('file_name').split('/')[-1]
        image.update(coco_url=f'http://images.cocodataset.org/val2017/{name}', neg_category_ids=[])
    source = save(tmp_path / 'lvis_v1_val.json', content)
    assert call('dataset_converters/lvis2odvg', source, tmp_path / 'od.jsonl').status == 0
    assert [line['filename'] for line in lines_of(tmp_path / 'od.jsonl')] == ['val2017/a.png', 'val2017/b.png']


@pytest.mark.shared
def test_lvis2odvg_of_lvis_excerpt(call, shared_dir, tmp_path):
    source = shared_dir / 'data/fixtures/lvis/lvis_val_mini.json'
    assert call('dataset_converters/lvis2odvg', source, tmp_path / 'od.jsonl').status == 0
    data = json.loads(source.read_text())
    names = {category['id']: category['name'] for category in data['categories']}
    expected = {image['id']: [] for image in data['images']}
    for a in data['annotations']:
        x, y, width, height = a['bbox']
        expected[a['image_id']].append((names[a['category_id']], pytest.approx([x, y, x + width, y + height])))
    lines = lines_of(tmp_path / 'od.jsonl')
    for image, line in zip(data['images'], lines, strict=True):
        assert line['filename'] == image['coco_url'].removeprefix('http://images.cocodataset.org/')
        assert [(i['category'], i['bbox']) for i in line['detection']['instances']] == expected[image['id']]
    assert sum(map(len, expected.values())) == 142
    label_map = json.loads((tmp_path / 'od_label_map.json').read_text())
    assert len(label_map) == 1230
    assert all(label_map[str(i['label'])] == i['category'] for line in lines for i in line['detection']['instances'])


# ------------------------------------------------------------------------ ODVGPromptDataset


@pytest.fixture
def odvg(tmp_path):
    """``odvg(label_map, lines)`` writes an ODVG file of two images, and returns arguments of its data set."""

    def make(label_map=None, lines=None):
        content = make_content()
        write_images(tmp_path / 'images', content['images'])
        boxes = [([2, 3, 20, 30], 1, 'pear'), ([30, 10, 50, 40], 0, 'apple'), ([5, 5, 30, 30], 1, 'pear')]
        found = [dict(bbox=bbox, label=label, category=name) for bbox, label, name in boxes]
        sizes = [{'filename': i['file_name'], 'width': i['width'], 'height': i['height']} for i in content['images']]
        default = [sizes[0] | {'detection': {'instances': found}}, sizes[1]]
        text = '\n'.join(json.dumps(line) for line in (lines or default))
        (tmp_path / 'od.jsonl').write_text(text)
        save(tmp_path / 'od_label_map.json', label_map or {'0': 'apple', '1': 'pear'})
        return dict(data_root=str(tmp_path), ann_file='od.jsonl', data_prefix=dict(img='images/'))

    return make


def test_odvg_dataset_trains_with_visual_prompts(odvg):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'text')),
    ]
    config = dict(type='ODVGPromptDataset', **odvg(), pipeline=pipeline, return_classes=True)
    dataset = DATASETS.build(config)
    # An image without boxes stays, as a negative for the prompts of other images.
    assert len(dataset) == 2
    assert len(dataset[1]['data_samples'].gt_instances) == 0
    sample = dataset[0]['data_samples']
    assert sample.text == ('apple', 'pear')
    assert sample.gt_instances.labels.tolist() == [1, 0, 1]
    assert (dataset[0]['data_samples'].gt_instances.bboxes.tensor == sample.gt_instances.bboxes.tensor).all()
    exemplars = draw_exemplars(dataset, num_exemplars=1)
    assert [(e.img_id, e.label) for e in exemplars] == [(1, 0), (1, 1)]
    assert len(DATASETS.build(config | dict(filter_cfg=dict(filter_empty_gt=True)))) == 1


def test_odvg_dataset_label_map_may_begin_at_any_number(odvg):
    lines = [dict(filename='a.png', width=64, height=48, detection=dict(instances=[dict(bbox=[1, 1, 9, 9], label=5)]))]
    dataset = ODVGPromptDataset(**odvg({'5': 'pear', '1': 'apple'}, lines))
    assert dataset.metainfo['classes'] == ('apple', 'pear')
    assert [label for _, label in instances(dataset)[dataset.get_data_info(0)['img_path']]] == [1]


@pytest.mark.parametrize(
    ('label_map', 'lines', 'message'),
    [
        ({'0': 'pear', '1': 'apple'}, None, "line 1, instance 0: category 'pear' has the label 1, which means 'apple'"),
        ({'1': 'apple', '2': 'pear'}, None, 'correct the label'),
        (['apple', 'pear'], None, 'not a label map'),
        (None, [dict(filename='a.png', width=64, height=48, grounding=dict(caption='a', regions=[]))], 'captions'),
        (None, [dict(filename='a.png', width=64)], "no valid 'height'"),
        (None, [dict(filename='x.png', width=64, height=48)], 'x.png: no such file'),
        (
            None,
            [dict(filename='a.png', width=9, height=9, detection=dict(instances=[dict(bbox=[4, 4, 4, 8], label=0)]))],
            'annotation line 1, instance 0 (entry 0): box without area',
        ),
        (None, ['not an object'], 'line 1 is not an object'),
    ],
)
def test_odvg_dataset_rejects_bad_input(odvg, label_map, lines, message):
    with pytest.raises(InputError) as error:
        ODVGPromptDataset(**odvg(label_map, lines))
    assert message in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'{"filename": "\xff"}', 'not valid JSON at line 1, column 15 (not UTF-8)'),
        (json.dumps(make_content()).encode(), 'is a file in COCO format, not ODVG'),
        (b'{"filename": "a.png"', 'line 1, column 21'),
    ],
)
def test_odvg_dataset_rejects_other_files(odvg, tmp_path, content, message):
    arguments = odvg()
    (tmp_path / 'od.json').write_bytes(content)
    with pytest.raises(InputError) as error:
        ODVGPromptDataset(**arguments | dict(ann_file='od.json', label_map_file='od_label_map.json'))
    assert message in str(error.value)
    assert 'od.json' in str(error.value)


def test_odvg_dataset_without_label_map(odvg, tmp_path):
    arguments = odvg()
    names = tmp_path / 'od_label_map.json'
    names.rename(tmp_path / 'names.json')
    with pytest.raises(InputError, match='its labels have no names'):
        ODVGPromptDataset(**arguments)
    assert len(ODVGPromptDataset(**arguments, label_map_file='names.json')) == 2


# ------------------------------------------------------------------------ Objects365


def objects365_v2() -> dict:
    images = [
        dict(id=1, file_name='images/v1/patch8/objects365_v1_00420917.jpg', width=64, height=48, license=1, url=''),
        dict(id=2, file_name='images/v2/patch16/objects365_v2_00908726.jpg', width=64, height=48),
        dict(id=3, file_name='images/v2/patch20/objects365_v2_01000000.jpg', width=64, height=48),
    ]
    categories = [
        dict(id=3, name='Bakset'),
        dict(id=1, name='Cigar/Cigarette '),
        dict(id=2, name='Tape Measur/ Ruler'),
        dict(id=4, name='Pot, Pan'),
    ]
    boxes = [
        dict(image_id=1, category_id=3, bbox=[50, 20, 20, 10], area=200, iscrowd=0, isfake=0),
        dict(image_id=1, category_id=1, bbox=[1.5, 2.5, 20, 10], area=200, iscrowd=1, isreflected=1),
        dict(image_id=1, category_id=1, bbox=[10, 10, 0, 10], area=0, iscrowd=0),
        dict(image_id=2, category_id=1, bbox=[10, 10, 5, 10], area=50, iscrowd=0),
        dict(image_id=1, category_id=1, bbox=[63.5, 10, 20, 10], area=200, iscrowd=0),
    ]
    annotations = [box | dict(id=i) for i, box in enumerate(boxes, start=1)]
    return dict(images=images, categories=categories, annotations=annotations, licenses=[])


def test_objects365_converts_version_2(call, tmp_path):
    source = save(tmp_path / 'zhiyuan_objv2_train.json', objects365_v2())
    outcome = call('dataset_converters/objects365', source, tmp_path / 'out.json')
    assert outcome.status == 0, outcome.err
    for counted in ('1 x image without a file', '1 x box without area', '1 x box clipped', '4 x name corrected'):
        assert counted in outcome.out
    data = json.loads((tmp_path / 'out.json').read_text())
    assert [c['name'] for c in data['categories']] == [
        'Cigar/Cigarette',
        'Tape Measure/Ruler',
        'Basket',
        'Pot/Pan',
    ]
    # One image is known to be missing, and is left out with its box.
    assert [(i['id'], i['file_name']) for i in data['images']] == [
        (1, 'patch8/objects365_v1_00420917.jpg'),
        (3, 'patch20/objects365_v2_01000000.jpg'),
    ]
    assert data['annotations'] == [
        dict(id=1, image_id=1, category_id=3, bbox=[50, 20, 14, 10], area=140, iscrowd=0),
        dict(id=2, image_id=1, category_id=1, bbox=[1.5, 2.5, 20, 10], area=200, iscrowd=1),
    ]


def test_objects365_leaves_out_images_without_file(call, tmp_path):
    content = objects365_v2()
    write_images(tmp_path / 'train', [dict(file_name='patch8/objects365_v1_00420917.jpg', width=64, height=48)])
    source = save(tmp_path / 'zhiyuan_objv2_train.json', content)
    out = tmp_path / 'out.json'
    arguments = ('dataset_converters/objects365', source, out, '--img-dir')
    assert call(*arguments, tmp_path / 'train', '--keep-names').status == 0
    data = json.loads(out.read_text())
    assert [image['id'] for image in data['images']] == [1]
    assert data['categories'][2]['name'] == 'Bakset'
    assert check_path(out, img_dir=tmp_path / 'train')[0][0].errors == []
    (tmp_path / 'empty').mkdir()
    outcome = call(*arguments, tmp_path / 'empty')
    assert outcome.status == 2
    assert 'correct --img-dir' in outcome.err
    assert 'no such folder' in call(*arguments, tmp_path / 'absent').err


def test_objects365_config_reads_converted_file(call, repo, tmp_path, monkeypatch):
    """Version 1 has all images in one folder, and categories that are not sorted by id."""
    monkeypatch.setenv('DINOR1_DATA', str(tmp_path))
    cfg = Config.fromfile(repo / 'configs/_base_/datasets/objects365_detection.py')
    for split, dataset in (('train', cfg.train_dataloader.dataset), ('val', cfg.val_dataloader.dataset)):
        content = objects365_v2()
        for image in content['images']:
            image['file_name'] = f'obj365_{split}_{image["id"]:012}.jpg'
        if split == 'val':
            content['categories'].reverse()
        write_images(tmp_path / 'objects365v1' / split, content['images'])
        source = save(tmp_path / f'official_{split}.json', content)
        out = tmp_path / 'objects365v1' / dataset.ann_file
        img_dir = tmp_path / 'objects365v1' / split
        assert call('dataset_converters/objects365', source, out, '--img-dir', img_dir).status == 0
        built = DATASETS.build(dataset)
        assert len(built) == 3
        assert built.metainfo['classes'] == ('Cigar/Cigarette', 'Tape Measure/Ruler', 'Basket', 'Pot/Pan')
        boxes = instances(built)[str(img_dir / f'obj365_{split}_{1:012}.jpg')]
        assert boxes == [([50, 20, 64, 30], 2)]


@pytest.mark.parametrize(
    ('name', 'short'),
    [
        ('images/v1/patch8/objects365_v1_00420917.jpg', 'patch8/objects365_v1_00420917.jpg'),
        ('patch8/objects365_v1_00420917.jpg', 'patch8/objects365_v1_00420917.jpg'),
        ('obj365_train_000000586313.jpg', 'obj365_train_000000586313.jpg'),
        ('images/obj365_train_000000586313.jpg', 'obj365_train_000000586313.jpg'),
    ],
)
def test_objects365_short_name(name, short):
    assert short_name(name) == short


def test_objects365_corrections_keep_names_distinct():
    """The corrected names are in MMDetection's list of official names, and stay distinct."""
    official = [Objects365V1Dataset.METAINFO['classes'], Objects365V2Dataset.METAINFO['classes']]
    assert set(CORRECTIONS) <= {name for names in official for name in names}
    for names in official:
        better = [corrected(name) for name in names]
        assert len(set(better)) == 365
        assert all(name == name.strip() and ',' not in name for name in better)
        assert 1 <= sum(old != new for old, new in zip(names, better, strict=True)) <= 20


def test_objects365_missing_images_equal_those_of_mmdetection():
    from mmdet.datasets.objects365 import objv2_ignore_list

    assert set(objv2_ignore_list) == MISSING


# ------------------------------------------------------------------------ V3Det


def test_v3det_is_read_like_by_mmdetection(tmp_path):
    """V3Det's files are in COCO format; MMDetection needs a second file with the names, dinor1 does not."""
    content = make_content()
    write_images(tmp_path / 'images', content['images'])
    content['categories'].sort(key=lambda category: category['id'])
    save(tmp_path / 'annotations/v3det_2023_v1_train.json', content)
    names = '\n'.join(category['name'] for category in content['categories'])
    (tmp_path / 'annotations/names.txt').write_text(names)
    kwargs = dict(data_root=str(tmp_path), ann_file='annotations/v3det_2023_v1_train.json')
    kwargs |= dict(data_prefix=dict(img='images/'), serialize_data=False)
    theirs = V3DetDataset(**kwargs, label_file='annotations/names.txt')
    ours = CocoPromptDataset(**kwargs, bad_annotations='skip')
    assert theirs.metainfo['classes'] == ours.metainfo['classes']
    assert instances(theirs) == instances(ours)
