"""validate_dataset: checks of randomly damaged files; every kind of defect has a test."""

import copy
import json
import random

import pytest

from dinor1.annotations import KINDS, as_json, check_path, repair, text_report, write
from dinor1.datasets.validation import check_coco
from dinor1.utils.errors import InputError
from tests.annotations.samples import COCO_DEFECTS, ODVG_DEFECTS, make_content, make_lvis, make_odvg, save_odvg

JUNK = [None, True, -1, 0, 2, 3, 99, 1.5, float('nan'), float('inf'), 10**30, '', '3', 'x', [], [1, 2, 3, 4], [[1]], {}]


def locations(node):
    """Every (container, key) below a JSON value."""
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from locations(node[key])


def damage_at_random(content, rng) -> None:
    """Replace, remove, repeat or add one value anywhere."""
    parent, key = rng.choice(list(locations(content)))
    action = rng.choice(['replace', 'replace', 'replace', 'remove', 'add'])
    if action == 'replace':
        parent[key] = copy.deepcopy(rng.choice(JUNK))
    elif action == 'remove':
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(key, copy.deepcopy(rng.choice([parent[key], *JUNK])))
    else:
        parent[rng.choice(['id', 'bbox', 'area', 'other'])] = copy.deepcopy(rng.choice(JUNK))


@pytest.mark.parametrize('make', [make_content, make_lvis, make_odvg])
def test_check_agrees_with_training_on_random_damage(tmp_path, make):
    file = tmp_path / ('t.jsonl' if make is make_odvg else 't.json')
    outcomes = set()
    for seed in range(120):
        # Write a damaged file.
        rng = random.Random(seed)
        content = make()
        for _ in range(rng.choice([1, 1, 3])):
            damage_at_random(content, rng)
        if make is make_odvg:
            save_odvg(tmp_path, content).replace(file)
            (tmp_path / 'train_od_label_map.json').replace(tmp_path / 't_label_map.json')
        else:
            file.write_text(json.dumps(content))
        # Check it; both reports can be written.
        (checked,), _ = check_path(file, check_images=False)
        json.dumps(as_json([checked]))
        wrong = bool(checked.errors)
        assert text_report([checked]).count('error: ') >= wrong
        outcomes.add(wrong)
        # Training rejects exactly the files with errors.
        if make is make_content:
            try:
                check_coco(json.loads(file.read_text()), 't.json', None)
                refused = False
            except InputError:
                refused = True
            assert refused == wrong, (seed, checked.errors)
        # A file that is repaired completely has no errors when it is read again.
        try:
            repair(checked)
        except InputError:
            continue
        if not checked.errors:
            copied = tmp_path / f'copy{file.suffix}'
            write(checked.content, copied)
            assert check_path(copied, check_images=False)[0][0].errors == [], seed
            outcomes.add('repaired')
    assert outcomes == {False, True, 'repaired'}


def test_every_kind_of_defect_has_a_test():
    """A kind of defect without a test might never be detected."""
    made = {kind for kind, *_ in (*COCO_DEFECTS, *ODVG_DEFECTS)}
    elsewhere = {
        'broken JSON',
        'nothing left',
        'mixed lines',
        'no label map',
        'category ids differ between files',
        'unreadable image',
        'EXIF rotation',
        'EXIF rotation contradicts the boxes',
        'no frequency',
        'contradictory lists',
        'unknown category in a list',
        'span outside the caption',
        'invalid source',
    }
    assert made | elsewhere == set(KINDS)
    assert not made & elsewhere
