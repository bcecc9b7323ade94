"""Merged annotation files: ids, order, and files that cannot be merged."""

import json

import pytest

from dinor1.annotations.merge import merge_coco
from dinor1.datasets import CocoPromptDataset
from dinor1.evaluation.coco_metric import read_coco
from dinor1.utils.errors import InputError


def content(*images: int, name: str = 'cat') -> dict:
    """Images with the given ids; each has a box at its id, and the annotations are in the opposite order."""
    return dict(
        images=[dict(id=i, file_name=f'{i}.png', width=100, height=80) for i in images],
        annotations=[
            dict(id=i, image_id=i, category_id=3, bbox=[i, 2, 10, 12], area=120, iscrowd=0) for i in images[::-1]
        ],
        categories=[dict(id=3, name=name)],
    )


def test_merge_numbers_images_over_all_files():
    merged = merge_coco([content(7, 2), content(2)], ['val.json', 'test.json'])
    assert [(image['id'], image['file_name']) for image in merged['images']] == [
        (1, '7.png'),
        (2, '2.png'),
        (3, '2.png'),
    ]
    found = [(a['id'], a['image_id'], a['bbox'][0]) for a in merged['annotations']]
    assert found == [(1, 2, 2), (2, 1, 7), (3, 3, 2)]


def test_merged_files_agree_in_data_set_and_metric(tmp_path):
    files = []
    for name, images in (('val', (7, 2)), ('test', (2, 5))):
        (tmp_path / f'{name}.json').write_text(json.dumps(content(*images)))
        files.append(f'{name}.json')
    for image in (2, 5, 7):
        (tmp_path / f'{image}.png').touch()
    dataset = CocoPromptDataset(
        data_root=str(tmp_path), ann_file=files, data_prefix=dict(img=''), pipeline=[], test_mode=True
    )
    truth = read_coco([str(tmp_path / name) for name in files])
    for info, image in zip(map(dataset.get_data_info, range(4)), truth['images'], strict=True):
        assert (info['img_id'], info['img_path'][-5:]) == (image['id'], image['file_name'])
        box = next(a['bbox'] for a in truth['annotations'] if a['image_id'] == info['img_id'])
        assert info['instances'][0]['bbox'][0] == box[0]
    # Data set and metric also renumber the images of a list of one file.
    assert [image['id'] for image in read_coco([str(tmp_path / 'val.json')])['images']] == [1, 2]
    assert [image['id'] for image in read_coco(str(tmp_path / 'val.json'))['images']] == [7, 2]
    settings = dict(data_root=str(tmp_path), data_prefix=dict(img=''), pipeline=[], test_mode=True)
    one = CocoPromptDataset(ann_file=files[:1], **settings)
    assert [one.get_data_info(i)['img_id'] for i in range(2)] == [1, 2]
    single = CocoPromptDataset(data_root=str(tmp_path), ann_file='val.json', data_prefix=dict(img=''), pipeline=[])
    assert single.ann_file == str(tmp_path / 'val.json')
    assert [single.get_data_info(i)['img_id'] for i in range(2)] == [7, 2]


def test_merge_rejects_files_of_different_data_sets():
    with pytest.raises(InputError, match='empty list'):
        merge_coco([], [])
    with pytest.raises(InputError, match=r'test.json: other categories than val.json'):
        merge_coco([content(1), content(1, name='dog')], ['val.json', 'test.json'])
    with pytest.raises(InputError, match=r"test.json: not a COCO file, 'images' is not a list of records with id"):
        merge_coco([content(1), dict(content(1), images=3)], ['val.json', 'test.json'])
    stray = content(1)
    stray['annotations'][0]['image_id'] = 9
    with pytest.raises(InputError, match=r'test.json: an annotation refers to image 9, which is not in the file'):
        merge_coco([content(1), stray], ['val.json', 'test.json'])


def test_merge_unites_sources_of_federated_files():
    from dinor1.annotations.federated import label_scopes

    def content(source, ids):
        return dict(
            images=[dict(id=1, source=source)],
            annotations=[],
            categories=[dict(id=1, name='a'), dict(id=2, name='b')],
            sources=[dict(name=source, exhaustive_category_ids=ids)],
        )

    # Each image keeps the scope of its source.
    merged = merge_coco([content('x', [1]), content('y', [2])], ['one', 'two'])
    scopes = label_scopes(merged, 'merged')
    assert {number: scope.exhaustive for number, scope in scopes.items()} == {1: {1}, 2: {2}}
    # Contradictory or missing sources are errors.
    with pytest.raises(InputError, match="two: the source 'x' differs"):
        merge_coco([content('x', [1]), content('x', [2])], ['one', 'two'])
    plain = {key: value for key, value in content('x', [1]).items() if key != 'sources'}
    with pytest.raises(InputError, match="two: has no list 'sources'"):
        merge_coco([content('x', [1]), plain], ['one', 'two'])
