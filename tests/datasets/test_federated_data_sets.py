"""Federated labels and chosen categories of data sets."""

import json

import cv2
import numpy as np
import pytest

from dinor1.annotations.federated import label_scopes
from dinor1.datasets import CocoPromptDataset, LVISPromptDataset
from dinor1.evaluation.lvis_ground_truth import LVISGroundTruth
from dinor1.registry import DATASETS
from dinor1.utils.errors import InputError

KEYS = ('img_id', 'text', 'source', 'annotated_labels', 'exhaustive_labels')
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=KEYS),
]
NAMES = {20: 'cup', 3: 'jar', 8: 'nut', 5: 'pot'}  # in the order of their ids: jar, pot, nut, cup


def write(root, sources=True, name='train.json', **image) -> dict:
    """Images of the sources kitchen (jar, pot), shelf (jar, nut) and bench (cup); the last shows a cup."""
    categories = {'kitchen': [3, 5], 'shelf': [3, 8], 'bench': [20]}
    shown = dict(kitchen=3, shelf=8, bench=20)
    images = [
        dict(id=i, file_name=f'{i}.png', width=40, height=30, **(dict(source=source) if sources else {}), **image)
        for i, source in enumerate(categories)
    ]
    boxes = [
        dict(id=i, image_id=i, category_id=shown[source], bbox=[5, 5, 20, 10], area=200)
        for i, source in enumerate(categories)
    ]
    data = dict(images=images, annotations=boxes, categories=[dict(id=id, name=name) for id, name in NAMES.items()])
    if sources:
        data['sources'] = [dict(name=name, exhaustive_category_ids=ids) for name, ids in categories.items()]
    for i in range(3):
        cv2.imwrite(str(root / f'{i}.png'), np.full((30, 40, 3), 60 * i, np.uint8))
    (root / name).write_text(json.dumps(data))
    return dict(data_root=str(root), ann_file=name, data_prefix=dict(img=''), pipeline=PIPELINE, return_classes=True)


def labels_of(dataset) -> list[tuple[list[int], list[int]]]:
    infos = [dataset[i]['data_samples'] for i in range(len(dataset))]
    return [(info.annotated_labels, info.exhaustive_labels) for info in infos]


def test_federated_images_have_labels_of_their_source(tmp_path):
    dataset = CocoPromptDataset(**write(tmp_path), federated=True, not_exhaustive=['shelf'])
    assert dataset.metainfo['classes'] == ('jar', 'pot', 'nut', 'cup')
    assert labels_of(dataset) == [([0, 1], [0, 1]), ([0, 2], []), ([3], [3])]
    names = [dataset[i]['data_samples'].source for i in range(3)]
    assert names == [f'{tmp_path}/train.json:{source}' for source in ('kitchen', 'shelf', 'bench')]


def test_images_have_no_label_lists_without_federated(tmp_path):
    sample = CocoPromptDataset(**write(tmp_path))[0]['data_samples']
    assert 'exhaustive_labels' not in sample
    assert 'annotated_labels' not in sample


def test_file_without_sources_is_one_source(tmp_path):
    dataset = CocoPromptDataset(**write(tmp_path, sources=False), federated=True)
    assert labels_of(dataset) == [([0, 1, 2, 3], [0, 1, 2, 3])] * 3
    assert dataset[0]['data_samples'].source == f'{tmp_path}/train.json'


def test_federated_images_have_lvis_lists(tmp_path):
    source = write(tmp_path, sources=False, neg_category_ids=[5], not_exhaustive_category_ids=[8])
    dataset = LVISPromptDataset(**source, federated=True)
    assert labels_of(dataset) == [([0, 1, 2], [0, 1]), ([1, 2], [1]), ([1, 2, 3], [1, 3])]


def test_concatenated_files_have_different_sources(tmp_path):
    inner = [
        write(tmp_path, sources=False, name=name) | dict(type='CocoPromptDataset', federated=True)
        for name in ('a.json', 'b.json')
    ]
    dataset = DATASETS.build(dict(type='ConcatDataset', datasets=inner))
    assert [dataset.get_data_info(i)['source'] for i in (0, 5)] == [f'{tmp_path}/{n}.json' for n in 'ab']


# Chosen categories


@pytest.mark.parametrize('as_file', [False, True])
def test_exclude_categories_removes_images_that_show_them(tmp_path, as_file):
    source = write(tmp_path)
    (tmp_path / 'novel.txt').write_text('8\tnut\n')
    novel = 'novel.txt' if as_file else ['nut']
    base = CocoPromptDataset(**source, federated=True, exclude_categories=novel)
    assert base.metainfo['classes'] == ('jar', 'pot', 'cup')
    assert [base.get_data_info(i)['img_id'] for i in range(len(base))] == [0, 2]
    assert labels_of(base) == [([0, 1], [0, 1]), ([2], [2])]
    support = CocoPromptDataset(**source, federated=True, only_categories=novel)
    assert support.metainfo['classes'] == ('nut',)
    assert [support.get_data_info(i)['img_id'] for i in range(len(support))] == [1]
    assert labels_of(support) == [([0], [0])]


def test_exclude_categories_keeps_all_images_in_test_mode(tmp_path):
    """A metric reads the whole file, and would count objects in left-out images as missed."""
    dataset = CocoPromptDataset(**write(tmp_path), exclude_categories=['nut'], test_mode=True)
    assert dataset.metainfo['classes'] == ('jar', 'pot', 'cup')
    boxes = [len(dataset.get_data_info(i)['instances']) for i in range(len(dataset))]
    assert boxes == [1, 0, 1]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(not_exhaustive=True), 'not_exhaustive has no effect without federated=True'),
        (dict(exclude_categories=['cup'], only_categories=['jar']), 'cannot be combined'),
        (dict(exclude_categories=['cup'], metainfo=dict(classes=['jar'])), 'both choose classes'),
        (dict(exclude_categories='nowhere.txt'), 'nowhere.txt: cannot be read'),
        (dict(exclude_categories=['plate']), "no category is named 'plate'"),
        (dict(federated=True, not_exhaustive=['shop']), "the source 'shop', but the file has kitchen, shelf, bench"),
    ],
)
def test_contradictory_options_are_rejected(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        CocoPromptDataset(**write(tmp_path), **options)


@pytest.mark.shared
def test_lvis_scopes_agree_with_lvis_evaluation(shared_dir):
    path = shared_dir / 'data/fixtures/lvis/lvis_val_mini.json'
    content = json.loads(path.read_text())
    truth = LVISGroundTruth.read(path)
    scopes = label_scopes(content, str(path))
    for row, image in enumerate(truth.image_ids.tolist()):
        annotated = truth.judged[row] | truth.not_exhaustive[row]
        assert scopes[image].annotated == set(truth.category_ids[annotated].tolist())
        complete = truth.judged[row] & ~truth.not_exhaustive[row]
        assert scopes[image].exhaustive == set(truth.category_ids[complete].tolist())
