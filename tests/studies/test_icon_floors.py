"""Floors of the icon world, with features that know the answer and with constant ones."""

from collections import Counter

import numpy as np
import pytest
import torch

from dinor1.evaluation.coco_metric import read_coco
from dinor1.studies.icon_floors import floor_table, measure_floors
from dinor1.studies.icon_protocols import SUPPORT
from dinor1.studies.results import read_rows
from dinor1.utils.errors import InputError
from dinor1.utils.image_file import read_image
from tests.icon_files import small_world, tiny_drawings, tiny_library  # noqa: F401, fixtures


class KnownFeatures:
    """One-hot vectors of the concepts, looked up by image and box."""

    def __init__(self, root, splits):
        self.table, names = {}, {}
        for split in splits:
            content = read_coco(str(root / f'annotations/{split}.json'))
            concepts = {category['id']: category['name'] for category in content['categories']}
            images = {
                image['id']: read_image(root / f'images/{split}' / image['file_name']).tobytes()
                for image in content['images']
            }
            for annotation in content['annotations']:
                x, y, width, height = annotation['bbox']
                box = tuple(np.round([x, y, x + width, y + height], 2))
                index = names.setdefault(concepts[annotation['category_id']], len(names))
                self.table[images[annotation['image_id']], box] = index

    def crops(self, image, boxes):
        indices = [self.table[image.tobytes(), tuple(np.round(box, 2))] for box in boxes]
        return torch.eye(max(self.table.values()) + 1)[indices]


class ConstantFeatures:
    def crops(self, image, boxes):
        return torch.ones(len(boxes), 1)


@pytest.mark.parametrize('split', ['val_novel', 'test_style'])
def test_measure_floors_of_perfect_and_constant_features(small_world, split):  # noqa: F811
    kinds = SUPPORT[split]
    scores = measure_floors(small_world, split, KnownFeatures(small_world, [split, *kinds.values()]), {1: 2, 4: 1})
    content = read_coco(str(small_world / f'annotations/{split}.json'))
    counts = Counter(annotation['category_id'] for annotation in content['annotations'])
    assert scores['boxes'] == len(content['annotations'])
    assert scores['concepts'] == len(counts)
    assert 0 < scores['echo_AP50'] < 1
    assert [scores[f'{kind}{count}'] for kind in kinds for count in (1, 4)] == [1.0] * (2 * len(kinds))
    # Constant features give every box the same concept.
    scores = measure_floors(small_world, split, ConstantFeatures(), {1: 1})
    for kind in kinds:
        assert round(scores[f'{kind}1'] * scores['boxes']) in {*counts.values(), 0}
        assert scores[f'{kind}1'] < 1


def test_measure_floors_rejects_unknown_split(small_world):  # noqa: F811
    with pytest.raises(InputError, match='train: not a split of the icon world'):
        measure_floors(small_world, 'train', ConstantFeatures())


def test_floor_table_has_a_line_for_each_support_set():
    metrics = dict(concepts=150.0, boxes=3000.0, echo_AP50=0.5)
    metrics |= {f'{kind}{count}': count / 100 for kind in ('cross', 'same') for count in (1, 4, 16)}
    lines = floor_table([dict(arm='val_novel', metrics=metrics)]).splitlines()
    assert lines[2] == '| val_novel | 150 | 3000 | 0.500 | cross | 0.010 | 0.040 | 0.160 | 0.007 |'
    assert len(lines) == 4


def test_page_has_the_table_of_the_committed_results(repo):
    text = floor_table(read_rows(repo / 'results/icon_floors.jsonl'))
    page = (repo / 'docs/icon_world.md').read_text()
    assert f'<!-- icon_floors:begin -->\n\n{text}\n\n<!-- icon_floors:end -->' in page
