"""Exports of detections: each format is read by the tools and data sets that users give it to."""

import json
import os

import cv2
import pytest
import yaml
from pycocotools.coco import COCO

from dinor1.annotations import check_path
from dinor1.datasets import CocoPromptDataset, ODVGPromptDataset
from dinor1.inference import export_detections
from dinor1.utils.errors import InputError
from tests.model_files import random_image

NAMES = ['dog', 'cat']
BOXES = [[20.0, 10.0, 60.0, 30.0], [0.25, 50.0, 200.0, 100.0]]


@pytest.fixture
def records(tmp_path) -> list[dict]:
    """A dog and a cat on an image of 200 x 100 pixels, and an image of this size without detections."""
    for name in ('photos/a.png', 'photos/night/b.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), random_image(100, 200, seed=len(name)))
    first = dict(bboxes=BOXES, scores=[0.75, 0.5], labels=[4, 7], names=['dog', 'cat'])
    empty = dict(bboxes=[], scores=[], labels=[], names=[])
    size = dict(width=200, height=100)
    return [
        dict(img_path=str(tmp_path / 'photos/a.png'), **size, **first),
        dict(img_path=str(tmp_path / 'photos/night/b.png'), **size, **empty),
    ]


def export(records, tmp_path, format):
    return export_detections(records, ['a', 'b'], NAMES, tmp_path / 'out/labels', format)


def load(dataset_type, path):
    """The training data of an export, whose images are named relative to its file."""
    pipeline = [dict(type='LoadImageFromFile')]
    return dataset_type(path.name, data_root=str(path.parent), data_prefix=dict(img=''), pipeline=pipeline)


def loaded_boxes(dataset) -> list:
    """Class name and box of every object, per image, as the training loads them."""
    names = dataset.metainfo['classes']
    return [
        [(names[i['bbox_label']], i['bbox']) for i in dataset.get_data_info(k)['instances']]
        for k in range(len(dataset))
    ]


def test_export_of_no_image_is_an_empty_file(tmp_path):
    (path,), left_out = export_detections([], [], NAMES, tmp_path, 'coco')
    assert json.loads(path.read_text())['images'] == []
    assert left_out == 0


def test_export_coco_loads_in_pycocotools_validation_and_training(records, tmp_path):
    (path,), left_out = export(records, tmp_path, 'coco')
    assert left_out == 0
    # pycocotools,
    coco = COCO(str(path))
    dog, cat = coco.loadAnns(coco.getAnnIds())
    assert (dog['bbox'], dog['score'], coco.loadCats(dog['category_id'])[0]['name']) == ([20, 10, 40, 20], 0.75, 'dog')
    assert cat['bbox'] == [0.25, 50, 199.75, 50]
    # validation, which finds and opens the images,
    ((checked,), skipped) = check_path(path)
    assert not checked.errors
    assert len(checked.image_files) == 2
    assert not skipped
    # and training.
    dataset = load(CocoPromptDataset, path)
    assert loaded_boxes(dataset) == [list(zip(['dog', 'cat'], BOXES, strict=True)), []]
    assert dataset[0]['img'].shape == (100, 200, 3)


def test_export_odvg_loads_in_validation_and_training(records, tmp_path):
    (path, _), _ = export(records, tmp_path, 'odvg')
    ((checked,), _) = check_path(path)
    assert not checked.errors
    dataset = load(ODVGPromptDataset, path)
    assert loaded_boxes(dataset) == [list(zip(['dog', 'cat'], BOXES, strict=True)), []]
    assert dataset[1]['img'].shape == (100, 200, 3)


def test_export_yolo_has_the_layout_that_yolo_tools_expect(records, tmp_path):
    (path, labels, images), _ = export(records, tmp_path, 'yolo')
    content = yaml.safe_load(path.read_text())
    assert content == dict(train='images', val='images', names=NAMES)
    # Undo the normalisation by the size of the image, 200 x 100.
    rows = [line.split() for line in (labels / 'a.txt').read_text().splitlines()]
    for row, name, box in zip(rows, ['dog', 'cat'], BOXES, strict=True):
        x, y, w, h = (float(v) * side for v, side in zip(row[1:], [200, 100, 200, 100], strict=True))
        assert content['names'][int(row[0])] == name
        assert [x - w / 2, y - h / 2, x + w / 2, y + h / 2] == pytest.approx(box, abs=1e-3)
    assert (labels / 'b.txt').read_text() == ''
    # Every label file has its image, also after another export to the same folder.
    export(records, tmp_path, 'yolo')
    assert sorted(os.listdir(images)) == ['a.png', 'b.png']
    assert (images / 'b.png').read_bytes() == (tmp_path / 'photos/night/b.png').read_bytes()


def test_export_labelme_has_the_documented_keys(records, tmp_path):
    (folder,), _ = export(records, tmp_path, 'labelme')
    content = json.loads((folder / 'a.json').read_text())
    keys = {'version', 'flags', 'shapes', 'imagePath', 'imageData', 'imageHeight', 'imageWidth'}
    assert content.keys() == keys
    # labelme reads the image from its path relative to the file.
    assert (folder / content['imagePath']).resolve() == (tmp_path / 'photos/a.png').resolve()
    assert (content['imageHeight'], content['imageWidth'], content['imageData']) == (100, 200, None)
    dog, cat = content['shapes']
    assert (dog['label'], dog['points'], dog['shape_type']) == ('dog', [[20, 10], [60, 30]], 'rectangle')
    assert {'group_id', 'flags'} <= dog.keys()
    assert cat['label'] == 'cat'
    assert json.loads((folder / 'b.json').read_text())['shapes'] == []


@pytest.mark.parametrize('format', ['coco', 'yolo', 'odvg', 'labelme'])
def test_export_counts_boxes_without_area(records, tmp_path, format):
    records[0] = records[0] | dict(bboxes=[BOXES[0], [200.0, 50.0, 200.0, 90.0]])
    written, left_out = export(records, tmp_path, format)
    assert left_out == 1
    assert written[0].exists()


def test_export_rejects_unknown_formats_and_classes(records, tmp_path):
    with pytest.raises(InputError, match="unknown format 'voc'; give one of coco"):
        export(records, tmp_path, 'voc')
    with pytest.raises(InputError, match="class 'cat' is not among dog"):
        export_detections(records, ['a', 'b'], ['dog'], tmp_path, 'coco')
