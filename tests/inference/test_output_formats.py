"""Output formats supervision, COCO and YOLO, on two detections whose numbers are computed by hand."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools.coco import COCO

from dinor1.inference import to_coco, to_supervision, to_yolo
from dinor1.utils.errors import InputError


@pytest.fixture
def sample() -> DetDataSample:
    """Two detections on an image of 200 x 100 pixels."""
    found = InstanceData(
        bboxes=torch.tensor([[20.0, 10.0, 60.0, 30.0], [0.0, 50.0, 200.0, 100.0]]),
        scores=torch.tensor([0.75, 0.5]),
        labels=torch.tensor([1, 0]),
        label_names=['dog', 'cat'],
    )
    return DetDataSample(pred_instances=found, metainfo=dict(img_path='a/b.jpg', ori_shape=(100, 200)))


@pytest.fixture
def empty(sample) -> DetDataSample:
    sample = sample.clone()
    sample.pred_instances = sample.pred_instances[:0]
    return sample


def test_to_supervision_returns_the_fields_of_detections(sample, empty):
    fields = to_supervision(sample)
    assert fields.keys() == {'xyxy', 'confidence', 'class_id', 'data'}
    np.testing.assert_array_equal(fields['xyxy'], [[20, 10, 60, 30], [0, 50, 200, 100]])
    np.testing.assert_array_equal(fields['confidence'], np.float32([0.75, 0.5]))
    assert (fields['class_id'].tolist(), fields['data']['class_name'].tolist()) == ([1, 0], ['dog', 'cat'])
    assert (fields['xyxy'].dtype, fields['class_id'].dtype) == (np.float32, np.int64)
    assert [value.shape for value in list(to_supervision(empty).values())[:3]] == [(0, 4), (0,), (0,)]


def test_to_supervision_fields_are_accepted_by_the_package(sample, empty):
    supervision = pytest.importorskip('supervision', reason='needs the package supervision')
    for each in (sample, empty):
        detections = supervision.Detections(**to_supervision(each))
        assert len(detections) == len(each.pred_instances)


def test_to_coco_is_readable_by_pycocotools(sample, empty):
    coco = COCO()
    coco.dataset = to_coco([sample, empty, sample], ['cat', 'dog'])
    coco.createIndex()
    assert [image['file_name'] for image in coco.loadImgs(coco.getImgIds())] == ['a/b.jpg'] * 3
    first, second = coco.loadAnns(coco.getAnnIds(imgIds=[3]))
    assert (first['bbox'], first['area'], first['score']) == ([20, 10, 40, 20], 800, 0.75)
    assert coco.loadCats([first['category_id'], second['category_id']]) == [
        dict(id=2, name='dog'),
        dict(id=1, name='cat'),
    ]
    assert not coco.getAnnIds(imgIds=[2])


def test_to_coco_rejects_images_without_a_path(sample):
    sample.set_metainfo(dict(img_path=None))
    with pytest.raises(InputError, match='sample 0 has no path'):
        to_coco([sample], ['cat', 'dog'])


def test_to_yolo_is_relative_to_the_image(sample, empty):
    assert to_yolo(sample) == '1 0.200000 0.200000 0.200000 0.200000\n0 0.500000 0.750000 1.000000 0.500000\n'
    assert to_yolo(sample, with_scores=True).splitlines()[0].endswith(' 0.750000')
    assert to_yolo(empty) == ''


@pytest.mark.parametrize(
    ('names', 'message'), [('cat', 'must be a list'), ([], 'label 1 has no name'), (['a'], 'label 1')]
)
def test_to_coco_needs_a_name_for_every_label(sample, names, message):
    with pytest.raises(InputError, match=message):
        to_coco([sample], names)
