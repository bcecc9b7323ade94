"""validate_dataset: ODVG files, detection and grounding lines."""

import json

import pytest

from tests.annotations.samples import ODVG_DEFECTS, instances_of, make_content, make_odvg, save_odvg, write_images


@pytest.mark.parametrize(('kind', 'damage', 'shown'), [(None, lambda lines: None, 'no defects'), *ODVG_DEFECTS])
def test_odvg_defect_is_found(validate, tmp_path, kind, damage, shown):
    write_images(tmp_path / 'images', make_content())
    lines = make_odvg()
    damage(lines)
    file = save_odvg(tmp_path, lines)
    outcome = validate(file)
    assert '(ODVG)' in outcome.out
    assert shown in outcome.out
    assert outcome.status == (kind is not None)
    assert (kind or 'no defects') in outcome.out
    out = tmp_path / 'repaired/train.jsonl'
    assert validate(file, '--fix', out, '--img-dir', tmp_path / 'images').status == 0
    assert validate(out, '--img-dir', tmp_path / 'images').status == 0
    if kind == 'label contradicts category':
        # The category name gives the right label.
        named = {0: 'apple', 1: 'pear', 2: 'plum'}
        for line, repaired in zip(lines, out.read_text().splitlines(), strict=True):
            pairs = zip(instances_of([line]), instances_of([json.loads(repaired)]), strict=True)
            assert all(new['category'] == old['category'] == named[new['label']] for old, new in pairs)
    if kind is None:
        assert [json.loads(line) for line in out.read_text().splitlines()] == make_odvg()


def test_odvg_without_names_reports_shifted_labels(validate, tmp_path):
    lines = make_odvg()
    for line in lines:
        for instance in instances_of([line]):
            instance['label'] += 1
            del instance['category']
    outcome = validate(save_odvg(tmp_path, lines), '--no-images', '--fix', tmp_path / 'repaired.jsonl')
    assert outcome.status == 1
    assert 'category ids off by one' in outcome.out
    assert not (tmp_path / 'repaired.jsonl').exists()


def test_odvg_needs_a_label_map(validate, tmp_path):
    file = save_odvg(tmp_path, make_odvg(), label_map=False)
    outcome = validate(file, '--no-images')
    assert outcome.status == 1
    assert 'no label map' in outcome.out
    names = tmp_path / 'names/map.json'
    names.parent.mkdir()
    names.write_text('{"0": "apple", "1": "pear", "2": "plum"}')
    assert validate(file, '--no-images', '--label-map', names).status == 0
    names.write_text('["apple"]')
    outcome = validate(file, '--no-images', '--label-map', names)
    assert outcome.status == 2
    assert 'map.json: not a label map' in outcome.err


def grounding(**changes):
    region = dict(bbox=[4, 5, 20, 30], phrase='a plum', tokens_positive=[[0, 6]]) | changes
    return dict(filename='1.png', height=48, width=64, grounding=dict(caption='a plum on a table', regions=[region]))


@pytest.mark.parametrize(
    ('changes', 'shown'),
    [
        ({}, None),
        ({'bbox': [[4, 5, 20, 30], [5, 5, 30, 30]]}, None),
        ({'bbox': [[4, 5, 20, 30], [5, 5, 5, 30]]}, 'line 1, region 0, box 1: bbox [5, 5, 0, 25]'),
        ({'tokens_positive': [[0, 60]]}, 'line 1, region 0: tokens_positive [0, 60] of a caption of 17 characters'),
    ],
)
def test_grounding_defect_is_found(validate, tmp_path, changes, shown):
    file = save_odvg(tmp_path, [grounding(**changes)], label_map=False)
    outcome = validate(file, '--no-images')
    assert outcome.status == (shown is not None)
    assert (shown or 'no defects') in outcome.out


def test_mixed_detection_and_grounding_lines_are_an_error(validate, tmp_path):
    outcome = validate(save_odvg(tmp_path, [grounding(), *make_odvg()]), '--no-images')
    assert outcome.status == 1
    assert 'mixed lines' in outcome.out
