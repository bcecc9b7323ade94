"""validate_dataset: clean files, broken files, folders of files, and the JSON report."""

import json
import subprocess
import sys

import pytest

from tests.annotations.samples import edit, every, make_content, save

SETS = ['raccoon', 'aquarium', 'na_mushrooms', 'thermal_dogs_and_people', 'chess_pieces', 'bccd', 'coco_mini', 'fruit']


def test_clean_set_has_no_defects(validate, root):
    outcome = validate(root)
    assert outcome.status == 0
    assert outcome.err == ''
    assert 'train.json (COCO): 4 images, 12 annotations, 3 categories; 4 images opened in' in outcome.out
    assert 'no defects' in outcome.out
    assert outcome.out.endswith('1 file: 0 errors, 0 warnings\n')


@pytest.mark.shared
@pytest.mark.parametrize('name', SETS)
def test_real_sets_have_no_errors(validate, shared_dir, name):
    # Open a sample, because decoding all images takes longer than all other tests of this file.
    outcome = validate(shared_dir / 'data' / name, '--sample', 20)
    assert outcome.status == 0, outcome.out
    assert outcome.out.splitlines()[-1].startswith('3 files: 0 errors')


@pytest.mark.shared
def test_real_lvis_set_has_no_errors(validate, shared_dir):
    """LVIS v0.5 names its images as in COCO 2014; they are found by the end of the name."""
    outcome = validate(shared_dir / 'data/fixtures/lvis/lvis_val_mini.json')
    assert outcome.status == 0
    assert '(LVIS): 15 images, 142 annotations, 1,230 categories; 15 images opened' in outcome.out


@pytest.mark.shared
def test_repeated_id_in_mmdetection_sample_is_found(validate, shared_dir):
    file = shared_dir / 'data/fixtures/mmdetection/coco_wrong_format_sample.json'
    outcome = validate(file, '--no-images')
    assert outcome.status == 1
    assert 'duplicate id\n    annotation 1 (entry 1)' in outcome.out


def test_checks_import_no_deep_learning_library(repo):
    code = 'import sys, dinor1.annotations; print([m for m in ("torch", "mmdet", "mmengine") if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], cwd=repo, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


@pytest.mark.parametrize(
    ('text', 'location'),
    [
        ('{"images": [', 'line 1, column 13'),
        ('{\n "images": [],\n "annotations": [1,,2]}', 'line 3, column 20'),
        ('', 'line 1, column 1'),
    ],
)
def test_broken_json_error_has_line_and_column(validate, root, text, location):
    outcome = validate(save(root, text))
    assert outcome.status == 1
    assert f'broken JSON\n    not valid JSON at {location}' in outcome.out


def test_non_utf8_error_has_line_and_column(validate, root):
    path = save(root, make_content())
    path.write_bytes(b'{"images":\n  ["\xff"]}')
    assert 'not valid JSON at line 2, column 5 (not UTF-8)' in validate(path).out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent.json'], 'absent.json: no such file'),
        (['images'], 'images: no annotation file in COCO, LVIS or ODVG format'),
        (['annotations', '--img-dir', 'absent'], 'absent: no such folder'),
        (['annotations/train.json', '--fix', 'annotations/train.json'], 'is the input itself'),
        (['annotations/train.json', '--fix', 'images'], 'is a folder'),
        (['annotations', '--sample', '-1'], '--sample must not be negative'),
    ],
)
def test_user_errors_have_status_2(validate, root, monkeypatch, arguments, message):
    monkeypatch.chdir(root)
    outcome = validate(*arguments)
    assert outcome.status == 2
    assert outcome.err.startswith('error: ')
    assert message in outcome.err


def test_folder_check_skips_files_without_boxes(validate, root):
    content = make_content()
    captions = dict(images=content['images'], annotations=[dict(id=1, image_id=1, caption='a plum')])
    save(root, captions, 'captions.json')
    save(root, dict(images=content['images'], categories=content['categories']), 'image_info_test.json')
    save(root, '{"a": 1}', 'other.json')
    outcome = validate(root)
    assert outcome.status == 0
    assert '1 file: 0 errors' in outcome.out
    assert all(name in outcome.out.split('skipped')[1] for name in ('captions.json', 'image_info_test', 'other.json'))


def test_different_category_ids_of_splits_are_found(validate, root):
    shifted = make_content()
    every('categories', lambda c: c.update(id=c['id'] - 1))(shifted)
    every('annotations', lambda a: a.update(category_id=a['category_id'] - 1))(shifted)
    save(root, shifted, 'val.json')
    outcome = validate(root)
    assert outcome.status == 1
    assert outcome.out.count('category ids differ between files') == 1
    assert 'all ids differ by -1 from those of annotations/train.json' in outcome.out
    # Checked alone, the file has no error.
    assert validate(root / 'annotations/val.json').status == 0


def test_missing_categories_in_a_split_are_accepted(validate, root):
    content = make_content()
    content['categories'].pop()
    content['annotations'] = [a for a in content['annotations'] if a['category_id'] < 3]
    save(root, content, 'val.json')
    assert 'differ' not in validate(root).out


def test_folder_is_repaired_into_another_folder(validate, root, tmp_path_factory):
    content = make_content()
    edit('annotations', 1, bbox=[1, 2, 0, 9])(content)
    save(root, content, 'val.json')
    out = tmp_path_factory.mktemp('out')
    assert validate(root, '--fix', out).status == 0
    train, val = (json.loads((out / f'annotations/{name}.json').read_text()) for name in ('train', 'val'))
    assert train == make_content()
    assert len(val['annotations']) == 11


def test_json_report_has_every_finding(validate, root):
    content = make_content()
    every('annotations', lambda a: a.update(bbox=[1, 2, 0, 9]))(content)
    file = save(root, content)
    outcome = validate(file, '--json')
    report = json.loads(outcome.out)
    assert outcome.status == 1
    assert report['errors'] == 12
    assert report['files'][0]['file'] == str(file)
    finding = report['files'][0]['findings'][3]
    assert finding['kind'] == 'box without area'
    assert finding['repairable']
    assert finding['severity'] == 'error'
    assert (finding['section'], finding['entry'], finding['id']) == ('annotations', 3, 4)
    # The text report shows some of the cases only.
    text = validate(file, '--max', 2).out
    assert 'box without area, 12 times' in text
    assert 'and 10 more' in text
    assert text.count('needs a positive') == 2
