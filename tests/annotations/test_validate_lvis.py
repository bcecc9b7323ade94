"""validate_dataset: LVIS files."""

import json

import pytest

from tests.annotations.samples import edit, make_content, make_lvis, save, write_images


@pytest.mark.parametrize(
    ('kind', 'damage', 'shown'),
    [
        (None, lambda c: None, 'no defects'),
        (
            'no frequency',
            edit('categories', 1, frequency='often'),
            "category 2 (entry 1): 'pear' has frequency 'often'",
        ),
        ('contradictory lists', edit('images', 0, neg_category_ids=[1]), 'image 1 (entry 0): category 1'),
        ('unknown category in a list', edit('images', 0, neg_category_ids=[77]), 'neg_category_ids has 77'),
        ('box without area', edit('annotations', 1, bbox=[1, 2, 0, 9]), 'annotation 2 (entry 1)'),
    ],
)
def test_lvis_defect_is_found(validate, tmp_path, kind, damage, shown):
    content = make_lvis()
    damage(content)
    write_images(tmp_path / 'val2017', make_content())
    file = save(tmp_path, content, 'lvis_v1_val.json')
    outcome = validate(file)
    assert '(LVIS)' in outcome.out
    assert '4 images opened' in outcome.out
    assert shown in outcome.out
    assert outcome.status == (kind is not None)
    assert (kind or 'no defects') in outcome.out


def test_repaired_lvis_file_has_no_derived_file_names(validate, tmp_path):
    content = make_lvis()
    content['annotations'].append(content['annotations'][0] | {'id': 99, 'bbox': [1, 2, 0, 9]})
    write_images(tmp_path / 'val2017', make_content())
    file = save(tmp_path, content, 'lvis_v1_val.json')
    assert validate(file, '--fix', tmp_path / 'repaired.json').status == 0
    assert json.loads((tmp_path / 'repaired.json').read_text()) == make_lvis()


def test_repair_keeps_coco_url(validate, tmp_path):
    """LVIS v1 names an image by its URL: a file name that is repaired in memory would not be in the file."""
    write_images(tmp_path / 'val2017', make_content())
    (tmp_path / 'val2017/1.png').rename(tmp_path / 'val2017/1.PNG')
    file = save(tmp_path, make_lvis(), 'lvis_v1_val.json')
    outcome = validate(file, '--fix', tmp_path / 'repaired.json')
    assert outcome.status == 1
    assert 'image under another name' in outcome.out
