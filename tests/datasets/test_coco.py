"""CocoPromptDataset: reading, rejected files with their messages, and reproducible augmentation."""

import json
import random
import shutil

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset, Objects365V1Dataset
from mmdet.evaluation import CocoMetric
from mmengine.dataset import pseudo_collate
from PIL import Image
from torch.utils.data import DataLoader

from dinor1.datasets import CocoPromptDataset, validation
from dinor1.datasets.seeding import set_epoch, set_seed
from dinor1.registry import DATASETS
from dinor1.utils.errors import InputError

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
SETS = [
    'raccoon',
    'bccd',
    'aquarium',
    'na_mushrooms',
    'thermal_dogs_and_people',
    'chess_pieces',
    'coco_mini',
    'fruit',
]


def make_content() -> dict:
    """Three images (the last without boxes), unordered category ids with gaps, one crowd box."""
    return {
        'images': [
            {'id': 7, 'file_name': 'a.png', 'width': 32, 'height': 24},
            {'id': 3, 'file_name': 'b.png', 'width': 24, 'height': 32},
            {'id': 4, 'file_name': 'c.png', 'width': 32, 'height': 24},
        ],
        'categories': [{'id': 50, 'name': 'zebra'}, {'id': 2, 'name': 'apple'}, {'id': 9, 'name': 'lamp'}],
        'annotations': [
            {'id': 11, 'image_id': 7, 'category_id': 50, 'bbox': [2, 3, 10, 8], 'area': 80, 'iscrowd': 0},
            {'id': 12, 'image_id': 3, 'category_id': 2, 'bbox': [0, 0, 24, 32], 'area': 768, 'iscrowd': 0},
            {'id': 13, 'image_id': 7, 'category_id': 9, 'bbox': [0.5, 1, 4, 4], 'area': 16, 'iscrowd': 1},
        ],
    }


def write(root, content, name='instances.json'):
    """Write a COCO file and a random image file for each of its images; return the arguments that read it."""
    (root / 'images').mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for image in content['images']:
        pixels = rng.integers(0, 256, (image['height'], image['width'], 3), dtype=np.uint8)
        cv2.imwrite(str(root / 'images' / image['file_name']), pixels)
    (root / name).write_text(json.dumps(content))
    return dict(data_root=str(root), ann_file=name, data_prefix=dict(img='images/'))


def one_line(error) -> str:
    message = str(error.value)
    assert '\n' not in message
    assert len(message) < 400
    return message


# Reading


def test_dataset_reads_classes_labels_and_boxes(tmp_path):
    dataset = CocoPromptDataset(**write(tmp_path, make_content()))
    assert dataset.metainfo['classes'] == ('apple', 'lamp', 'zebra')
    assert len(set(dataset.metainfo['palette'])) == 3
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [7, 3, 4]
    assert dataset.get_data_info(0)['instances'] == [
        {'ignore_flag': 0, 'bbox': [2, 3, 12, 11], 'bbox_label': 2},
        {'ignore_flag': 1, 'bbox': [0.5, 1, 4.5, 5], 'bbox_label': 1},
    ]
    assert dataset.get_data_info(2)['instances'] == []


def test_dataset_accepts_absent_area_and_iscrowd(tmp_path):
    content = make_content()
    for annotation in content['annotations']:
        del annotation['area'], annotation['iscrowd']
    dataset = CocoPromptDataset(**write(tmp_path, content))
    assert [box['ignore_flag'] for box in dataset.get_data_info(0)['instances']] == [0, 0]


def test_metainfo_classes_choose_and_order_labels(tmp_path):
    dataset = CocoPromptDataset(
        **write(tmp_path, make_content()), metainfo=dict(classes=['zebra', 'apple']), filter_cfg=None
    )
    assert dataset.metainfo['classes'] == ('zebra', 'apple')
    labels = [[box['bbox_label'] for box in dataset.get_data_info(i)['instances']] for i in range(3)]
    assert labels == [[0], [1], []]


def test_unknown_class_error_suggests_similar_names(tmp_path):
    with pytest.raises(InputError, match="'aple'.*nearest are apple") as error:
        CocoPromptDataset(**write(tmp_path, make_content()), metainfo=dict(classes=['aple']))
    one_line(error)


@pytest.mark.parametrize(('empty', 'expected'), [(False, [7, 3, 4]), (True, [7, 3])])
def test_filter_cfg_decides_about_images_without_boxes(tmp_path, empty, expected):
    dataset = CocoPromptDataset(
        **write(tmp_path, make_content()), filter_cfg=dict(filter_empty_gt=empty), pipeline=PIPELINE
    )
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == expected
    if not empty:
        assert len(dataset[2]['data_samples'].gt_instances) == 0


def test_filter_cfg_that_leaves_no_image_is_an_error(tmp_path):
    with pytest.raises(InputError, match='leaves no image') as error:
        CocoPromptDataset(**write(tmp_path, make_content()), filter_cfg=dict(min_size=1000))
    one_line(error)


def test_grey_image_is_loaded_with_three_channels(tmp_path):
    source = write(tmp_path, make_content())
    cv2.imwrite(str(tmp_path / 'images' / 'a.png'), np.full((24, 32), 77, np.uint8))
    dataset = CocoPromptDataset(**source, pipeline=[PIPELINE[0], PIPELINE[-1]])
    image = dataset[0]['inputs']
    assert image.shape == (3, 24, 32)
    assert (image == 77).all()


@pytest.mark.shared
def test_unsorted_categories_agree_with_mmdetection_objects365(shared_dir, tmp_path):
    """The file has crowd, ignored, foreign and tiny boxes, and categories out of order."""
    source = shared_dir / 'data' / 'fixtures' / 'mmdetection' / 'unsorted_obj365_sample.json'
    content = json.loads(source.read_text())
    # MMDetection leaves out a box of area 0; CocoPromptDataset uses the area of the box instead.
    content['annotations'] = [a for a in content['annotations'] if a['area'] > 0]
    kwargs = write(tmp_path, content)
    ours = CocoPromptDataset(**kwargs, bad_annotations='skip', serialize_data=False)
    theirs = Objects365V1Dataset(**kwargs, metainfo=dict(classes=('bus', 'car')), serialize_data=False)
    assert ours.metainfo['classes'] == ('bus', 'car')
    assert ours.data_list == theirs.data_list
    assert [len(info['instances']) for info in ours.data_list] == [2, 1, 0, 0]
    metric = CocoMetric(ann_file=str(tmp_path / 'instances.json'), sort_categories=True)
    assert metric._coco_api.get_cat_ids(cat_names=ours.metainfo['classes']) == ours.cat_ids


@pytest.mark.shared
@pytest.mark.parametrize('name', SETS)
def test_real_sets_agree_with_mmdetection_coco_dataset(shared_dir, name):
    root = shared_dir / 'data' / name
    for split in ('train', 'val', 'test'):
        kwargs = dict(data_root=str(root), ann_file=f'annotations/{split}.json', data_prefix=dict(img='images/'))
        ours = CocoPromptDataset(**kwargs, serialize_data=False, pipeline=PIPELINE)
        names = dict(classes=ours.metainfo['classes'])
        assert ours.data_list == CocoDataset(**kwargs, serialize_data=False, metainfo=names).data_list
        info = ours.get_data_info(0)
        sample = ours[0]
        assert sample['inputs'].shape == (3, info['height'], info['width'])
        assert len(sample['data_samples'].gt_instances) == sum(not box['ignore_flag'] for box in info['instances'])


# Rejected files


def edit(index, **changes):
    return lambda content: content['annotations'][index].update(changes)


def drop(index, key):
    return lambda content: content['annotations'][index].pop(key)


ANNOTATION_DEFECTS = [
    ('no box', drop(1, 'bbox'), 'annotation 12 .*bbox'),
    ('missing key', drop(1, 'image_id'), 'annotation 12 .*image_id'),
    ('wrong type', lambda content: content['annotations'].insert(1, [1]), 'entry 1'),
    ('duplicate id', edit(1, id=11), 'annotation 11 '),
    ('unknown image', edit(1, image_id=99), 'annotation 12 .*99'),
    ('unknown category', edit(1, category_id=99), 'annotation 12 .*99'),
    ('malformed box', edit(1, bbox=[0, 0, 5]), 'annotation 12 .*four finite numbers'),
    ('malformed box', edit(1, bbox=[0, 0, '5', 5]), 'annotation 12 .*four finite numbers'),
    ('malformed box', edit(1, bbox=None), 'annotation 12 .*four finite numbers'),
    ('malformed box', edit(1, bbox=[0, 0, float('nan'), 5]), 'annotation 12 .*four finite numbers'),
    ('malformed box', edit(1, bbox=[0, 0, float('inf'), 5]), 'annotation 12 .*four finite numbers'),
    ('box without area', edit(1, bbox=[3, 3, 0, 5]), 'annotation 12 .*positive'),
    ('box without area', edit(1, bbox=[3, 3, 5, -2]), 'annotation 12 .*positive'),
    ('box outside its image', edit(1, bbox=[30, 3, 5, 5]), 'annotation 12 .*24 x 32'),
    ('box outside its image', edit(1, bbox=[-9, 3, 5, 5]), 'annotation 12 .*24 x 32'),
    ('box partly outside its image', edit(1, bbox=[20, 3, 5.5, 5]), 'annotation 12 .*24 x 32'),
    ('box partly outside its image', edit(1, bbox=[3, -1.5, 5, 5]), 'annotation 12 .*24 x 32'),
]


@pytest.mark.parametrize(('kind', 'damage', 'pattern'), ANNOTATION_DEFECTS)
def test_defective_annotation_is_rejected_or_skipped(tmp_path, monkeypatch, kind, damage, pattern):
    # Rejected, by default.
    content = make_content()
    damage(content)
    source = write(tmp_path, content)
    with pytest.raises(InputError, match=pattern) as error:
        CocoPromptDataset(**source)
    message = one_line(error)
    assert kind in message
    assert 'instances.json' in message
    assert "bad_annotations='skip'" in message

    # Skipped on request, with a warning.
    warnings = []
    monkeypatch.setattr(validation, 'print_log', lambda text, **_: warnings.append(text))
    dataset = CocoPromptDataset(**source, bad_annotations='skip')
    assert len(warnings) == 1
    assert warnings[0].endswith(f'left out 1 x {kind}')
    assert len(dataset) == 3
    assert len(dataset.get_data_info(0)['instances']) == 2


def test_box_check_tolerates_one_pixel_outside_the_image(tmp_path):
    content = make_content()
    edit(1, bbox=[-1, -1, 26, 34])(content)
    dataset = CocoPromptDataset(**write(tmp_path, content))
    assert dataset.get_data_info(1)['instances'][0]['bbox'] == [-1, -1, 25, 33]


STRUCTURE_DEFECTS = [
    (lambda content: content.pop('categories'), "no list 'categories'"),
    (lambda content: content.pop('annotations'), "no list 'annotations'"),
    (lambda content: content['images'].clear(), "'images' is empty"),
    (lambda content: content['images'][1].pop('width'), "entry 1 of 'images' has no valid 'width'"),
    (lambda content: content['images'][1].update(width=0), 'image 3 has width 0'),
    (lambda content: content['images'][1].update(id=7), "id 7 occurs 2 times in 'images'"),
    (lambda content: content['categories'][1].update(id='x'), "entry 1 of 'categories' has no valid 'id'"),
    (lambda content: content['categories'][1].update(name='lamp'), "name 'lamp' occurs 2 times"),
]


@pytest.mark.parametrize('bad_annotations', ['error', 'skip'])
@pytest.mark.parametrize(('damage', 'pattern'), STRUCTURE_DEFECTS)
def test_wrong_structure_is_always_rejected(tmp_path, damage, pattern, bad_annotations):
    content = make_content()
    source = write(tmp_path, content)
    damage(content)
    (tmp_path / 'instances.json').write_text(json.dumps(content))
    with pytest.raises(InputError, match=pattern) as error:
        CocoPromptDataset(**source, bad_annotations=bad_annotations)
    assert 'instances.json' in one_line(error)


@pytest.mark.parametrize(
    ('text', 'pattern'),
    [
        (None, 'no such file'),
        ('{"images": [', 'not valid JSON at line 1, column 13'),
        ('[]', "no list 'images'"),
        ('', 'not valid JSON'),
    ],
)
def test_unreadable_annotation_file_is_an_error(tmp_path, text, pattern):
    if text is not None:
        (tmp_path / 'broken.json').write_text(text)
    with pytest.raises(InputError, match=pattern) as error:
        CocoPromptDataset(data_root=str(tmp_path), ann_file='broken.json', data_prefix=dict(img=''))
    assert 'broken.json' in one_line(error)


def test_unknown_bad_annotations_value_is_rejected():
    with pytest.raises(InputError, match="'error' or 'skip', not 'ignore'"):
        CocoPromptDataset(ann_file='x.json', bad_annotations='ignore')


def test_missing_image_is_rejected_or_skipped(tmp_path, monkeypatch):
    source = write(tmp_path, make_content())
    (tmp_path / 'images' / 'a.png').unlink()
    with pytest.raises(InputError, match='a.png: no such file, named by image 7 of .*instances.json') as error:
        CocoPromptDataset(**source)
    one_line(error)

    warnings = []
    monkeypatch.setattr(validation, 'print_log', lambda text, **_: warnings.append(text))
    dataset = CocoPromptDataset(**source, bad_annotations='skip')
    assert warnings[0].endswith('left out 1 x missing image file')
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [3, 4]

    shutil.rmtree(tmp_path / 'images')
    with pytest.raises(InputError, match='and 2 more are missing; check data_root'):
        CocoPromptDataset(**source, bad_annotations='skip')


@pytest.mark.parametrize('bad_annotations', ['error', 'skip'])
def test_missing_image_of_a_large_set_is_found_when_loaded(tmp_path, monkeypatch, bad_annotations):
    monkeypatch.setattr(validation, 'MAX_FILES_CHECKED', 2)
    source = write(tmp_path, make_content()) | dict(bad_annotations=bad_annotations, pipeline=PIPELINE)
    (tmp_path / 'images' / 'b.png').unlink()
    dataset = CocoPromptDataset(**source)
    with pytest.raises(InputError, match='b.png: no such image') as error:
        dataset[1]
    one_line(error)
    (tmp_path / 'images' / 'a.png').unlink()
    with pytest.raises(InputError, match='a.png: no such file'):
        CocoPromptDataset(**source)


@pytest.mark.parametrize('content', [b'', b'not an image'])
def test_unreadable_image_is_an_error(tmp_path, content):
    source = write(tmp_path, make_content())
    (tmp_path / 'images' / 'b.png').write_bytes(content)
    dataset = CocoPromptDataset(**source, pipeline=PIPELINE)
    with pytest.raises(InputError, match='b.png: (an empty file|not an image)') as error:
        dataset[1]
    one_line(error)


def test_image_that_only_pillow_reads_is_an_error(tmp_path):
    source = write(tmp_path, make_content())
    path = tmp_path / 'images' / 'b.png'
    Image.open(path).save(path, 'TGA')
    dataset = CocoPromptDataset(**source, pipeline=PIPELINE)
    with pytest.raises(InputError, match='b.png: Pillow reads this image, and OpenCV, .* does not; convert') as error:
        dataset[1]
    one_line(error)


def test_unreadable_image_in_a_worker_process_is_an_error(tmp_path):
    """The worker's traceback comes first, and the message is the last line."""
    source = write(tmp_path, make_content())
    (tmp_path / 'images' / 'b.png').write_bytes(b'')
    dataset = CocoPromptDataset(**source, pipeline=PIPELINE)
    batches = iter(DataLoader(dataset, sampler=[1], num_workers=1, collate_fn=pseudo_collate))
    with pytest.raises(InputError) as error:
        next(batches)
    assert 'b.png: an empty file; restore it' in str(error.value).strip().splitlines()[-1]
    batches._shutdown_workers()  # now, rather than by the garbage collector, which would wait for 5 s


def test_other_pipeline_errors_keep_their_type(tmp_path):
    def fail(results):
        raise RuntimeError('from a transform')

    dataset = CocoPromptDataset(**write(tmp_path, make_content()), pipeline=[fail])
    with pytest.raises(RuntimeError, match='from a transform'):
        dataset[0]


# Reproducible augmentation


@pytest.fixture
def source(tmp_path):
    content = make_content()
    content['images'] = [{'id': i, 'file_name': f'{i}.png', 'width': 16, 'height': 16} for i in range(1, 9)]
    content['annotations'] = []
    return write(tmp_path, content) | dict(pipeline=PIPELINE)


def read(dataset, epochs, num_workers=0) -> list[np.ndarray]:
    """All samples (8, 3, 16, 16) of each epoch."""
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=pseudo_collate,
    )
    result = []
    for epoch in epochs:
        dataset.set_epoch(epoch)
        result.append(np.stack([image.numpy() for batch in loader for image in batch['inputs']]))
    return result


def test_augmentation_depends_on_epoch_but_not_on_workers(source):
    reference = read(CocoPromptDataset(**source), [0, 1, 2])
    assert not any(np.array_equal(a, b) for a, b in zip(reference, reference[1:], strict=False))
    np.testing.assert_array_equal(read(CocoPromptDataset(**source), [0, 1, 2], num_workers=2), reference)
    # A resumed run: a new process that starts at epoch 2, in another order.
    resumed = CocoPromptDataset(**source)
    resumed.set_epoch(2)
    for idx in (5, 0, 5):
        np.testing.assert_array_equal(resumed[idx]['inputs'].numpy(), reference[2][idx])
    np.testing.assert_array_equal(resumed[-1]['inputs'].numpy(), reference[2][7])


def test_augmentation_differs_between_samples(source):
    dataset = CocoPromptDataset(**(source | dict(pipeline=[lambda results: (random.random(), np.random.rand())])))
    draws = np.array([dataset[i] for i in range(8)])
    assert len(np.unique(draws)) == draws.size


@pytest.mark.parametrize('wrapper', [dict(type='ConcatDataset'), dict(type='RepeatDataset', times=2)])
def test_set_epoch_and_set_seed_reach_wrapped_data_sets(source, wrapper):
    inner = source | dict(type='CocoPromptDataset')
    cfg = wrapper | (dict(datasets=[inner, inner]) if wrapper['type'] == 'ConcatDataset' else dict(dataset=inner))
    set_seed(cfg, 7)
    wrapped, plain = DATASETS.build(cfg), CocoPromptDataset(**source, seed=7)
    for epoch in (0, 1):
        set_epoch(wrapped, epoch)
        plain.set_epoch(epoch)
        for idx in range(8):
            np.testing.assert_array_equal(wrapped[idx]['inputs'], plain[idx]['inputs'])


def test_set_seed_skips_data_sets_without_a_seed():
    cfg = dict(type='mmdet.CocoDataset', ann_file='a.json')
    set_seed(cfg, 7)
    assert 'seed' not in cfg


def test_augmentation_depends_on_seed(source):
    (first,), (second,) = (read(CocoPromptDataset(**source, seed=seed), [0]) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_augmentation_restores_global_generators(source):
    dataset = CocoPromptDataset(**source)
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.rand()
    random.seed(3)
    np.random.seed(3)
    dataset[0]
    assert (random.random(), np.random.rand()) == expected


@pytest.mark.parametrize('kwargs', [dict(seed=None), dict(test_mode=True)])
def test_augmentation_without_seed_or_in_test_mode_uses_global_generators(source, kwargs):
    dataset = CocoPromptDataset(**source, **kwargs)
    samples = []
    for _ in range(2):
        random.seed(3)
        np.random.seed(3)
        samples.append([dataset[0]['inputs'].numpy() for _ in range(4)])
    np.testing.assert_array_equal(samples[0], samples[1])
    assert any(not np.array_equal(samples[0][0], other) for other in samples[0][1:])


def test_replacement_of_an_empty_sample_is_reproducible(source):
    """MMEngine draws another sample if a pipeline returns None; this draw is seeded too."""

    def only_even(results):
        return results['img_id'] if results['img_id'] % 2 == 0 else None

    def draw():
        dataset = CocoPromptDataset(**(source | dict(pipeline=[only_even])))
        return [dataset[i] for i in range(8)]

    assert draw() == draw()


def test_text_image_id_is_rejected_in_test_mode(tmp_path):
    content = make_content()
    for image in content['images']:
        image['id'] = f'a{image["id"]}'
    for annotation in content['annotations']:
        annotation['image_id'] = f'a{annotation["image_id"]}'
    arguments = write(tmp_path, content)
    assert len(CocoPromptDataset(**arguments)) == 3
    with pytest.raises(InputError, match="the image id 'a7' is text, and evaluation needs numbers"):
        CocoPromptDataset(**arguments, test_mode=True)
