"""The tools of the protocols: their output, and the pages with their tables."""

import json

import cv2
import numpy as np
import pytest

from dinor1.studies.detector_table import detector_tables
from dinor1.studies.protocol_table import protocol_table
from dinor1.studies.results import read_rows

SETS = ('raccoon', 'aquarium', 'na_mushrooms', 'thermal_dogs_and_people', 'chess_pieces', 'bccd', 'coco_mini')


@pytest.fixture
def nuts(tmp_path):
    """Folder of a set whose test split has three images with two nuts each."""
    (tmp_path / 'nuts/annotations').mkdir(parents=True)
    (tmp_path / 'nuts/images').mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / f'nuts/images/{i}.png'), np.zeros((40, 40, 3), dtype=np.uint8))
    annotations = [dict(image_id=i, category_id=1, bbox=[x, 5, 9, 9], area=81) for i in range(3) for x in (2, 20)]
    content = dict(
        images=[dict(id=i, file_name=f'{i}.png', width=40, height=40) for i in range(3)],
        annotations=[dict(a, id=i) for i, a in enumerate(annotations)],
        categories=[dict(id=1, name='nut')],
    )
    (tmp_path / 'nuts/annotations/test.json').write_text(json.dumps(content))
    return tmp_path / 'nuts'


def test_echo_floor_of_two_instances(call, nuts, tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('before\n<!-- echo:begin -->\n<!-- echo:end -->\n')
    outcome = call('analysis_tools/echo_floor', nuts, '--update', page)
    # The echo finds one nut of two: 51 of 101 recall thresholds.
    assert outcome.out.splitlines()[-1] == '| nuts | 3 | 3 | 0.505 |'
    assert outcome.out.strip() in page.read_text()
    outcome = call('analysis_tools/echo_floor', nuts, '--split', 'train')
    assert outcome.status == 2
    assert 'no annotations of train; check the path' in outcome.err


def test_protocol_baselines_bad_input(call, nuts, tmp_path):
    for options, message in (
        (['--seeds', '0'], '--seeds must be at least 1, got 0'),
        (['--proposals', 'guess'], 'expected windows, selective-search or a file of results'),
    ):
        outcome = call('analysis_tools/protocol_baselines', nuts, '--out', tmp_path / 'r.jsonl', *options)
        assert outcome.status == 2
        assert message in outcome.err
    assert not (tmp_path / 'r.jsonl').exists()


def test_protocols_page_contains_table_of_results(repo):
    text = protocol_table(read_rows(repo / 'results/protocols.jsonl'))
    page = (repo / 'docs/research/protocols.md').read_text()
    assert f'<!-- protocols:begin -->\n\n{text}\n\n<!-- protocols:end -->' in page


def test_lite_page_contains_tables_of_results(repo):
    rows = read_rows(repo / 'results/lite.jsonl')
    sets = [row['set'] for row in rows if row['baseline'] == 'lite']
    others = [row for row in read_rows(repo / 'results/protocols.jsonl') if row['set'] in sets]
    text = detector_tables([*rows, *others], ['lite', 'lite without rescoring', 'training-free'], sets)
    page = (repo / 'docs/research/lite.md').read_text()
    assert f'<!-- detectors:begin -->\n\n{text}\n\n<!-- detectors:end -->' in page


@pytest.mark.shared
def test_small_photographs_page_contains_echo_floor(call, repo, shared_dir):
    folders = [shared_dir / 'data' / name for name in SETS]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip('needs the small data sets in the shared folder')
    outcome = call('analysis_tools/echo_floor', *folders, '--split', 'test')
    page = (repo / 'docs/research/small_photographs.md').read_text()
    assert f'<!-- echo:begin -->\n\n{outcome.out.strip()}\n\n<!-- echo:end -->' in page
