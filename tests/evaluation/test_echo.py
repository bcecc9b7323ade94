"""The echo: a case by hand, and its known AP on real data."""

import json

import numpy as np
import pytest

from dinor1.datasets import CocoPromptDataset
from dinor1.evaluation import Exemplar, draw_interactive
from dinor1.evaluation.coco_metric import coco_curves, read_coco, summarize
from dinor1.evaluation.echo import echo_detections

SIX = ('raccoon', 'aquarium', 'chess_pieces', 'bccd', 'na_mushrooms', 'thermal_dogs_and_people')


def test_echo_detections_are_the_exemplars():
    assert len(echo_detections({})) == len(echo_detections({3: []})) == 0
    drawn = {4: [Exemplar(4, 0, (1, 2, 11, 22), 5), Exemplar(4, 0, (0, 0, 3, 4), 0)], 2: [], 9: []}
    echo = echo_detections(drawn)
    assert (echo.image.tolist(), echo.label.tolist(), echo.score.tolist()) == ([4, 4], [5, 0], [1, 1])
    assert echo.box.tolist() == [[1, 2, 10, 20], [0, 0, 3, 4]]


def echo_ap50(ann_file, images) -> float:
    """Plain visual-interactive AP50 of the echo, for the draw with seed 0."""
    dataset = CocoPromptDataset(ann_file=str(ann_file), data_prefix=dict(img=str(images)), pipeline=[], test_mode=True)
    echo = echo_detections(draw_interactive(dataset))
    ids = np.array(dataset.cat_ids)
    precision, _ = coco_curves(read_coco(str(ann_file)), list(echo.records(ids)), ids.tolist())
    return summarize(precision)['mAP_50']


@pytest.mark.shared
def test_echo_ap_on_small_sets(shared_dir):
    found = {}
    for name in SIX:
        folder = shared_dir / 'data' / name
        if not folder.is_dir():
            pytest.skip(f'needs the data set {name} in the shared folder')
        found[name] = echo_ap50(folder / 'annotations/test.json', folder / 'images')
    expected = dict(raccoon=1.00, chess_pieces=0.68, bccd=0.54, aquarium=0.28)
    # Published with two digits; another seed changes bccd by 0.005.
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.008)
    assert np.mean(list(found.values())) == pytest.approx(0.68, abs=0.005)


@pytest.mark.shared
def test_echo_ap_on_rfmix(shared_dir):
    index = shared_dir / 'data/rfmix/index.json'
    if not index.is_file():
        pytest.skip('needs the collection rfmix in the shared folder')
    folders = sorted(path.parents[1] for path in index.parent.glob('*/annotations/test.json'))
    assert len(folders) == len(json.loads(index.read_text())) == 30
    values = [echo_ap50(folder / 'annotations/test.json', folder / 'images') for folder in folders]
    assert np.mean(values) == pytest.approx(0.72, abs=0.005)
