"""validate_dataset: every defect is found, named with its place and remedy, and repaired where that is certain."""

import copy
import json
import random
import subprocess
import sys

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from dinor1.annotations import KINDS, as_json, check_path, pictures, repair, text_report, write
from dinor1.annotations.categories import differences, numbering_error, use_doubts
from dinor1.annotations.instances import box_form
from dinor1.annotations.pictures import locate
from dinor1.datasets.validation import check_coco
from dinor1.errors import InputError

SETS = ['raccoon', 'aquarium', 'na_mushrooms', 'thermal_dogs_and_people', 'chess_pieces', 'bccd', 'coco_mini', 'fruit']


def make_content() -> dict:
    """Four pictures of 64 x 48 pixels, the last without boxes; three categories; twelve boxes."""
    images = [dict(id=i, file_name=f'{i}.png', width=64, height=48) for i in range(1, 5)]
    categories = [dict(id=i, name=name) for i, name in enumerate(['apple', 'pear', 'plum'], start=1)]
    annotations = [
        dict(id=i, image_id=i % 3 + 1, category_id=i % 3 + 1, bbox=[4 + i, 5, 20 + i, 30], area=600, iscrowd=0)
        for i in range(1, 13)
    ]
    return dict(images=images, categories=categories, annotations=annotations)


def write_pictures(folder, content) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for image in content['images']:
        pixels = rng.integers(0, 256, (image['height'], image['width'], 3), dtype=np.uint8)
        cv2.imwrite(str(folder / image['file_name']), pixels)


@pytest.fixture
def root(tmp_path):
    """A clean data set: ``annotations/train.json`` and ``images/``."""
    write_pictures(tmp_path / 'images', make_content())
    save(tmp_path, make_content())
    return tmp_path


def save(root, content, name='train.json'):
    path = root / 'annotations' / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def validate(call):
    """``validate(path, option, ...)`` runs the tool."""
    return lambda *arguments: call('dataset_converters/validate_dataset', *arguments)


# ------------------------------------------------------------------------ clean files


def test_a_clean_set_has_no_defects(validate, root):
    outcome = validate(root)
    assert outcome.status == 0 and outcome.err == ''
    assert 'train.json (COCO): 4 images, 12 annotations, 3 categories; 4 pictures opened in' in outcome.out
    assert 'no defects' in outcome.out and outcome.out.endswith('1 file: 0 errors, 0 warnings\n')


@pytest.mark.shared
@pytest.mark.parametrize('name', SETS)
def test_real_sets_have_no_errors(validate, shared_dir, name):
    # A sample, because decoding all pictures takes longer than all other tests here.
    outcome = validate(shared_dir / 'data' / name, '--sample', 20)
    assert outcome.status == 0, outcome.out
    assert outcome.out.splitlines()[-1].startswith('3 files: 0 errors')


@pytest.mark.shared
def test_real_lvis_has_no_errors(validate, shared_dir):
    """LVIS v0.5 names its pictures as in COCO 2014; they are found by the end of the name."""
    outcome = validate(shared_dir / 'data/fixtures/lvis/lvis_val_mini.json')
    assert outcome.status == 0
    assert '(LVIS): 15 images, 142 annotations, 1,230 categories; 15 pictures opened' in outcome.out


@pytest.mark.shared
def test_a_repeated_id_of_mmdetections_own_sample_is_found(validate, shared_dir):
    file = shared_dir / 'data/fixtures/mmdetection/coco_wrong_format_sample.json'
    outcome = validate(file, '--no-images')
    assert outcome.status == 1 and 'duplicate id\n    annotation 1 (entry 1)' in outcome.out


def test_the_checks_load_no_deep_learning_library(repo):
    code = 'import sys, dinor1.annotations; print([m for m in ("torch", "mmdet", "mmengine") if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], cwd=repo, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


# ------------------------------------------------------------------------ one defect at a time


def edit(section, entry, **values):
    return lambda content: content[section][entry].update(values)


def drop(section, entry, key):
    return lambda content: content[section][entry].pop(key)


def every(section, change):
    return lambda content: [change(record) for record in content[section]]


# kind of defect, how it is made, what is shown of its place and values
COCO_DEFECTS = [
    ('missing section', lambda c: c.pop('categories'), "no list 'categories'"),
    ('missing section', lambda c: c.update(annotations={}), "no list 'annotations'"),
    ('empty section', lambda c: c['images'].clear(), "'images' is empty"),
    ('incomplete record', drop('images', 3, 'width'), "image 4 (entry 3): entry 3 of 'images' has no valid 'width'"),
    ('incomplete record', edit('images', 3, file_name=None), "no valid 'file_name'"),
    ('incomplete record', lambda c: c['images'].append('x'), 'entry 4'),
    ('incomplete category', edit('categories', 1, name=7), "category 2 (entry 1): entry 1 of 'categories'"),
    ('invalid image size', edit('images', 1, width=0), 'image 2 has width 0 and height 48'),
    ('invalid image size', edit('images', 1, height=float('nan')), 'height nan'),
    ('duplicate image id', lambda c: c['images'].append(c['images'][0]), "id 1 occurs 2 times in 'images'"),
    ('duplicate category id', edit('categories', 1, id=1), "id 1 occurs 2 times in 'categories'"),
    ('duplicate category name', edit('categories', 1, name='apple'), "name 'apple' occurs 2 times"),
    ('category ids off by one', every('annotations', lambda a: a.update(category_id=a['category_id'] - 1)), '+1 all'),
    ('category ids off by one', every('annotations', lambda a: a.update(category_id=a['category_id'] + 1)), '-1 all'),
    ('category ids are positions', every('categories', lambda c: c.update(id=10 * c['id'])), 'count from 1'),
    ('category ids of another list', every('categories', lambda c: c.update(id=c['id'] + 20)), '3 of 3 used ids are'),
    ('category id gap', every('categories', lambda c: c.update(id=c['id'] + (c['id'] == 3))), 'first gap after 2'),
    (
        'empty class',
        lambda c: c['categories'].extend([dict(id=4, name='fig'), dict(id=5, name='nut')]),
        "category 5 (entry 4): 'nut' has no annotation",
    ),
    ('first or last class empty', lambda c: c['categories'].append(dict(id=4, name='fig')), "'fig', the last class"),
    (
        'class of classes',
        lambda c: (
            [every('categories', lambda r: r.update(supercategory='fruit'))(c)]
            + [c['categories'].append(dict(id=0, name='fruit', supercategory='none'))]
        ),
        "'fruit' has no annotation and is the supercategory",
    ),
    ('numeric class name', every('categories', lambda c: c.update(name=str(c['id']))), "'1', '2', '3'"),
    ('similar class names', edit('categories', 1, name='Apple'), "'apple', 'Apple'"),
    ('untrimmed class name', edit('categories', 1, name='pear '), "'pear ' begins or ends"),
    ('wrong type', lambda c: c['annotations'].insert(1, [1]), 'entry 1'),
    ('wrong type', edit('annotations', 1, image_id=[1]), 'annotation 2 (entry 1): image_id [1]'),
    ('missing key', drop('annotations', 1, 'bbox'), 'annotation 2 (entry 1): bbox'),
    ('number as text', edit('annotations', 1, category_id='3'), "annotation 2 (entry 1): category_id '3'"),
    ('number as text', edit('annotations', 1, image_id='3'), "image_id '3' is 3 in the list"),
    ('number as text', edit('images', 3, width='64'), "has no valid 'width', but the text '64'"),
    ('number as text', edit('categories', 2, id='3'), "has no valid 'id', but the text '3'"),
    ('duplicate id', edit('annotations', 1, id=1), 'annotation 1 (entry 1): an earlier'),
    ('unknown image', edit('annotations', 1, image_id=99), 'annotation 2 (entry 1): no image has the id 99'),
    ('unknown category', edit('annotations', 1, category_id=99), 'annotation 2 (entry 1): no category has the id 99'),
    ('malformed box', edit('annotations', 1, bbox=[1, 2, 3]), 'annotation 2 (entry 1): bbox [1, 2, 3]'),
    ('malformed box', edit('annotations', 1, bbox=[1, 2, float('nan'), 9]), '[1, 2, nan, 9]'),
    ('malformed box', edit('annotations', 1, bbox=[1, 2, float('inf'), 9]), '[1, 2, inf, 9]'),
    ('malformed box', edit('annotations', 1, bbox=[1, 2, '8', 9]), "[1, 2, '8', 9]"),
    ('malformed box', edit('annotations', 1, bbox=[1, 2, 'x', 9]), "[1, 2, 'x', 9]"),
    ('malformed box', edit('annotations', 1, bbox=None), 'bbox None'),
    ('box without area', edit('annotations', 1, bbox=[1, 2, 0, 9]), 'annotation 2 (entry 1): bbox [1, 2, 0, 9]'),
    ('box without area', edit('annotations', 1, bbox=[1, 2, 9, -9]), '[1, 2, 9, -9] needs a positive'),
    (
        'box outside its image',
        edit('annotations', 1, bbox=[70, 2, 9, 9]),
        '[70, 2, 9, 9] (x, y, width, height) against',
    ),
    ('box partly outside its image', edit('annotations', 1, bbox=[50, 2, 20, 9]), 'annotation 2 (entry 1): bbox'),
    ('box partly outside its image', edit('annotations', 1, bbox=[-9, 2, 9.5, 9]), '[-9, 2, 9.5, 9]'),
    (
        'normalised boxes',
        every('annotations', lambda a: a.update(bbox=[v / 64 for v in a['bbox']])),
        'all 12 boxes lie within 0..1',
    ),
    (
        'boxes are corners',
        every('annotations', lambda a: a.update(bbox=[20 + a['id'], 15, 40 + a['id'], 40])),
        '12 of 12 boxes leave their image',
    ),
    ('box under one pixel', edit('annotations', 1, bbox=[5, 5, 0.5, 9]), 'is 0.5 x 9 pixels'),
    (
        'repeated annotation',
        lambda c: c['annotations'].append(c['annotations'][3] | {'id': 50}),
        'annotation 50 (entry',
    ),
    ('no area', drop('annotations', 1, 'area'), 'annotation 2 (entry 1)'),
    ('no iscrowd', drop('annotations', 1, 'iscrowd'), 'annotation 2 (entry 1)'),
    ('area not positive', edit('annotations', 1, area=0), 'area 0 of bbox'),
    ('missing image', edit('images', 1, file_name='absent.png'), 'images/absent.png'),
    ('image under another name', edit('images', 1, file_name='2.PNG'), 'images/2.PNG, but 2.png'),
    ('image under another name', edit('images', 1, file_name='img\\2.png'), 'but 2.png'),
    ('width and height exchanged', edit('images', 3, width=48, height=64), '4.png is 64 x 48 pixels, the file says 48'),
    (
        'wrong image size',
        edit('images', 3, width=65),
        'image 4 (entry 3): 4.png is 64 x 48 pixels, the file says 65 x 48',
    ),
    ('wrong image size', edit('images', 1, width=128, height=96), '2.png is 64 x 48'),
    ('repeated file name', edit('images', 3, file_name='1.png'), 'image 4 (entry 3): image 1 is 1.png as well'),
    ('absurd image size', edit('images', 3, width=30000), '4.png has 30000 x 48 pixels'),
]


@pytest.mark.parametrize('kind, damage, shown', COCO_DEFECTS)
def test_a_defect_is_named_with_its_place_and_remedy(validate, root, kind, damage, shown):
    content = make_content()
    damage(content)
    file = save(root, content)
    outcome = validate(file)
    assert outcome.status == (KINDS[kind].severity == 'error' or 'error:' in outcome.out)
    assert f'{KINDS[kind].severity}: {kind}' in outcome.out, outcome.out
    case = outcome.out.split(f'{KINDS[kind].severity}: {kind}')[1]
    assert shown in case.split('remedy:')[0] and f'remedy: {KINDS[kind].remedy}' in case
    assert str(file) in outcome.out


# Defects that a training run cannot see at its start, because it does not open the pictures or would read through them.
NOT_SEEN_AT_LOAD = {'image under another name', 'missing image', 'width and height exchanged', 'wrong image size'}


@pytest.mark.parametrize(
    'kind, damage', [(k, d) for k, d, _ in COCO_DEFECTS if KINDS[k].severity == 'error' and k not in NOT_SEEN_AT_LOAD]
)
def test_what_is_an_error_here_is_refused_by_training(kind, damage):
    content = make_content()
    damage(content)
    content = json.loads(json.dumps(content))
    with pytest.raises(InputError):
        check_coco(content, 'train.json', None)
    if KINDS[kind].blocking:
        # These can neither be left out nor repaired: what remains would be wrong, and nobody would know.
        with pytest.raises(InputError):
            check_coco(copy.deepcopy(content), 'train.json', None, skip=True)


BEYOND_REPAIR = {kind for kind in KINDS if KINDS[kind].blocking}


@pytest.mark.parametrize('kind, damage', [(k, d) for k, d, _ in COCO_DEFECTS if KINDS[k].repair])
def test_repairs_leave_no_error_and_change_nothing_else(validate, root, kind, damage):
    content = make_content()
    damage(content)
    file = save(root, content)
    before = file.read_bytes()
    outcome = validate(file, '--fix', root / 'annotations/repaired.json', '--img-dir', root / 'images')
    assert file.read_bytes() == before
    repaired = root / 'annotations/repaired.json'
    assert f'x {kind}' in outcome.err
    if kind == 'incomplete category':
        return
    assert outcome.status == 0, outcome.out
    again = validate(repaired)
    assert again.status == 0 and kind not in again.out
    # At most the defective record is gone, or the one image with its annotations.
    left = json.loads(repaired.read_text())
    assert len(left['images']) >= 3 and len(left['annotations']) >= 8
    untouched = [a for a in left['annotations'] if a in make_content()['annotations']]
    assert len(untouched) >= len(left['annotations']) - 4


@pytest.mark.parametrize('kind', sorted({k for k, _, _ in COCO_DEFECTS} & BEYOND_REPAIR))
def test_what_a_person_must_decide_is_not_repaired(validate, root, kind):
    content = make_content()
    next(damage for k, damage, _ in COCO_DEFECTS if k == kind)(content)
    outcome = validate(save(root, content), '--fix', root / 'repaired.json')
    assert outcome.status == 1 and not (root / 'repaired.json').exists()
    assert f'not repaired, because of {kind}' in outcome.err


def test_repairs_that_have_one_right_answer(validate, root):
    content = make_content()
    edit('annotations', 0, bbox=[50, 2, 20, 9], area=180)(content)
    edit('annotations', 1, id=1)(content)
    edit('annotations', 2, bbox=['5', 5, '20', 30])(content)
    edit('annotations', 3, category_id='2')(content)
    edit('annotations', 4, area=0)(content)
    edit('images', 3, width=48, height=64)(content)
    content['categories'].append(dict(id=9, name='apple '))
    edit('annotations', 5, category_id=9)(content)
    out = root / 'annotations/repaired.json'
    assert validate(save(root, content), '--fix', out).status == 0
    left = json.loads(out.read_text())
    boxes = {a['id']: a for a in left['annotations']}
    assert boxes[1]['bbox'] == [50, 2, 14, 9] and boxes[1]['area'] == 126
    assert sorted(boxes) == [1, *range(3, 14)] and boxes[13]['image_id'] == 3
    assert boxes[3]['bbox'] == [5, 5, 20, 30] and boxes[4]['category_id'] == 2
    assert boxes[5]['area'] == 25 * 30
    # 'apple ' is stripped, found twice, and becomes one with 'apple'.
    assert boxes[6]['category_id'] == 1 and [c['name'] for c in left['categories']] == ['apple', 'pear', 'plum']
    assert (left['images'][3]['width'], left['images'][3]['height']) == (64, 48)


def test_two_records_that_claim_an_image_id_are_not_repaired(validate, root):
    content = make_content()
    edit('images', 3, id=1)(content)
    outcome = validate(save(root, content), '--fix', root / 'repaired.json')
    assert outcome.status == 1 and outcome.out.count('duplicate image id') == 2  # before and after


# ------------------------------------------------------------------------ pictures


def test_a_picture_that_ends_early_is_found(validate, root):
    for name, size in (('2.png', 900), ('3.png', 0)):
        path = root / 'images' / name
        path.write_bytes(path.read_bytes()[:size])
    outcome = validate(root)
    assert outcome.status == 1
    assert 'unreadable image, 2 times\n    image 2 (entry 1): 2.png:' in outcome.out
    assert validate(root, '--no-images').status == 0


def with_orientation(path, orientation, size=(64, 48)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', size).save(path, exif=exif)


@pytest.mark.parametrize(
    'orientation, said, kind, status',
    [
        (6, (64, 48), 'EXIF rotation contradicts the boxes', 1),
        (6, (48, 64), 'EXIF rotation', 0),
        (3, (64, 48), 'EXIF rotation', 0),
        (1, (64, 48), None, 0),
    ],
)
def test_pending_exif_rotation(validate, root, orientation, said, kind, status):
    content = make_content()
    edit('images', 3, file_name='4.jpg', width=said[0], height=said[1])(content)
    with_orientation(root / 'images/4.jpg', orientation)
    outcome = validate(save(root, content))
    assert outcome.status == status
    assert ('EXIF' in outcome.out) == (kind is not None) and f'{kind or "no defects"}' in outcome.out
    # The judgement rests on what training sees.
    seen = LoadImageFromFile()({'img_path': str(root / 'images/4.jpg')})['img'].shape[:2]
    assert (seen == said[::-1]) == (kind != 'EXIF rotation contradicts the boxes')


def test_a_sample_opens_fewer_pictures_and_looks_for_all(validate, root):
    outcome = validate(root, '--sample', 2)
    assert outcome.status == 0 and '2 pictures opened' in outcome.out
    (root / 'images/3.png').unlink()
    assert 'missing image' in validate(root, '--sample', 0).out


def test_a_picture_of_absurd_size_is_not_decoded(validate, root, monkeypatch):
    path = root / 'images/2.png'
    path.write_bytes(path.read_bytes()[:900])
    # PIL itself would refuse to open it.
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    assert validate(root).status == 1
    monkeypatch.setattr(pictures, '_MAX_PIXELS', 2000)
    outcome = validate(root)
    assert outcome.status == 0 and 'absurd image size, 4 times' in outcome.out
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_no_picture_at_all_is_one_finding(validate, root):
    outcome = validate(save(root.parent / root.name / 'images', make_content(), 'x.json'), '--img-dir', root)
    assert outcome.out.count('missing image, 4 times') == 1
    lonely = save(root / 'annotations', make_content(), 'x.json')
    for file in (root / 'images').iterdir():
        if file.is_file():
            file.unlink()
    assert 'no picture is beside the file' in validate(lonely).out


@pytest.mark.parametrize(
    'file, folder',
    [
        ('annotations/train.json', 'images'),
        ('annotations/train.json', 'images/train'),
        ('annotations/instances_train2017.json', 'train2017'),
        ('train/_annotations.coco.json', 'train'),
        ('train.json', '.'),
        ('train.json', 'pictures'),
    ],
)
def test_pictures_are_found_in_the_usual_layouts(tmp_path, file, folder):
    # Another split has pictures of the same names.
    for other in ('images/val', 'val2017', folder):
        write_pictures(tmp_path / other, make_content())
    (tmp_path / file).parent.mkdir(exist_ok=True)
    names = [[f'{i}.png'] for i in range(1, 5)]
    assert locate((tmp_path / file), names).resolve() == (tmp_path / folder).resolve()


# ------------------------------------------------------------------------ broken files and folders


@pytest.mark.parametrize(
    'text, place',
    [
        ('{"images": [', 'line 1, column 13'),
        ('{\n "images": [],\n "annotations": [1,,2]}', 'line 3, column 20'),
        ('', 'line 1, column 1'),
    ],
)
def test_broken_json_has_a_line_and_a_column(validate, root, text, place):
    outcome = validate(save(root, text))
    assert outcome.status == 1 and f'broken JSON\n    not valid JSON at {place}' in outcome.out


def test_text_that_is_no_utf8_has_a_line_and_a_column(validate, root):
    path = save(root, make_content())
    path.write_bytes(b'{"images":\n  ["\xff"]}')
    assert 'not valid JSON at line 2, column 5 (not UTF-8)' in validate(path).out


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['absent.json'], 'absent.json: no such file'),
        (['images'], 'images: no annotation file in COCO, LVIS or ODVG format'),
        (['annotations', '--img-dir', 'absent'], 'absent: no such folder'),
        (['annotations/train.json', '--fix', 'annotations/train.json'], 'is the input itself'),
        (['annotations/train.json', '--fix', 'images'], 'is a folder'),
        (['annotations', '--sample', '-1'], '--sample must not be negative'),
    ],
)
def test_what_cannot_be_checked_has_status_2(validate, root, monkeypatch, arguments, message):
    monkeypatch.chdir(root)
    outcome = validate(*arguments)
    assert outcome.status == 2 and outcome.err.startswith('error: ') and message in outcome.err


def test_a_folder_skips_what_has_no_boxes(validate, root):
    content = make_content()
    captions = dict(images=content['images'], annotations=[dict(id=1, image_id=1, caption='a plum')])
    save(root, captions, 'captions.json')
    save(root, dict(images=content['images'], categories=content['categories']), 'image_info_test.json')
    save(root, '{"a": 1}', 'other.json')
    outcome = validate(root)
    assert outcome.status == 0 and '1 file: 0 errors' in outcome.out
    assert all(name in outcome.out.split('skipped')[1] for name in ('captions.json', 'image_info_test', 'other.json'))


def test_splits_that_number_their_categories_differently(validate, root):
    shifted = make_content()
    every('categories', lambda c: c.update(id=c['id'] - 1))(shifted)
    every('annotations', lambda a: a.update(category_id=a['category_id'] - 1))(shifted)
    save(root, shifted, 'val.json')
    outcome = validate(root)
    assert outcome.status == 1 and outcome.out.count('category ids differ between files') == 1
    assert 'all ids differ by -1 from those of annotations/train.json' in outcome.out
    # Alone, the file is right.
    assert validate(root / 'annotations/val.json').status == 0


def test_fewer_categories_in_a_split_are_no_contradiction(validate, root):
    content = make_content()
    content['categories'].pop()
    content['annotations'] = [a for a in content['annotations'] if a['category_id'] < 3]
    save(root, content, 'val.json')
    assert 'differ' not in validate(root).out


def test_a_folder_is_repaired_into_a_folder(validate, root, tmp_path_factory):
    content = make_content()
    edit('annotations', 1, bbox=[1, 2, 0, 9])(content)
    save(root, content, 'val.json')
    out = tmp_path_factory.mktemp('out')
    assert validate(root, '--fix', out).status == 0
    train, val = (json.loads((out / f'annotations/{name}.json').read_text()) for name in ('train', 'val'))
    assert train == make_content() and len(val['annotations']) == 11


def test_the_report_for_programs_has_every_case(validate, root):
    content = make_content()
    every('annotations', lambda a: a.update(bbox=[1, 2, 0, 9]))(content)
    file = save(root, content)
    outcome = validate(file, '--json')
    report = json.loads(outcome.out)
    assert outcome.status == 1 and report['errors'] == 12 and report['files'][0]['file'] == str(file)
    finding = report['files'][0]['findings'][3]
    assert finding['kind'] == 'box without area' and finding['repairable'] and finding['severity'] == 'error'
    assert (finding['section'], finding['entry'], finding['id']) == ('annotations', 3, 4)
    text = validate(file, '--max', 2).out
    assert 'box without area, 12 times' in text and 'and 10 more' in text and text.count('needs a positive') == 2


# ------------------------------------------------------------------------ category ids, in full


@pytest.mark.parametrize(
    'known, used, kind',
    [
        ({1, 2, 3}, {1, 2, 3}, None),
        ({1, 2, 3}, {2}, None),
        ({1, 2, 3}, set(), None),
        ({1, 2, 3}, {0, 1, 2}, 'category ids off by one'),
        ({0, 1, 2}, {1, 2, 3}, 'category ids off by one'),
        ({1}, {0}, 'category ids off by one'),
        # A single stray id is an error of its annotation: nothing says that the others are wrong.
        ({1, 2, 3}, {1, 2, 3, 99}, None),
        ({1, 2, 3}, {0, 1, 2, 3}, None),
        # COCO: ids up to 90 for 80 categories.
        ({*range(1, 12), *range(13, 26)}, set(range(24)), 'category ids are positions'),
        ({2, 5, 9}, {1, 2, 3}, 'category ids are positions'),
        ({2, 9, 50}, {50, 99, 9}, None),
        ({2, 9, 50}, {50, 99, 98}, 'category ids of another list'),
        ({'1', 2}, {1, 3, 4}, None),
    ],
)
def test_numbering(known, used, kind):
    finding = numbering_error(known, used)
    assert (finding and finding.kind) == kind


def test_an_empty_end_that_another_split_fills_is_no_doubt():
    categories = make_content()['categories']
    assert [f.kind for f in use_doubts(categories, {1, 2})] == ['first or last class empty']
    assert [f.kind for f in use_doubts(categories, {1, 2}, {'plum'})] == ['empty class']
    assert list(use_doubts(categories, {1, 2, 3})) == []


def test_no_file_no_difference():
    assert differences({}) == {}
    assert differences({'a': {'x': 1}, 'b': {'y': 2}}) == {}
    assert '1 is' in differences({'a': {'x': 1}, 'b': {'y': 1}})['b'].detail


def test_box_form_needs_evidence():
    sizes = {1: (100, 100)}
    one = [dict(id=i, image_id=1, category_id=1, bbox=[60, 60, 70, 70]) for i in range(9)]
    assert box_form([], sizes) is None and box_form(one, sizes) is None
    assert box_form([*one, one[0]], sizes).kind == 'boxes are corners'
    # One box that is no pair of corners: they are not all corners, some are just wrong.
    assert box_form([*one, one[0] | {'bbox': [60, 60, 10, 10]}], sizes) is None


# ------------------------------------------------------------------------ LVIS


def make_lvis() -> dict:
    content = make_content()
    for image in content['images']:
        image.update(coco_url=f'http://images.cocodataset.org/val2017/{image.pop("file_name")}')
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    every('categories', lambda c: c.update(frequency='f'))(content)
    every('annotations', lambda a: a.pop('iscrowd'))(content)
    return content


@pytest.mark.parametrize(
    'kind, damage, shown',
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
def test_lvis(validate, tmp_path, kind, damage, shown):
    content = make_lvis()
    damage(content)
    write_pictures(tmp_path / 'val2017', make_content())
    file = save(tmp_path, content, 'lvis_v1_val.json')
    outcome = validate(file)
    assert '(LVIS)' in outcome.out and '4 pictures opened' in outcome.out and shown in outcome.out
    assert outcome.status == (kind is not None) and (kind or 'no defects') in outcome.out


def test_a_repaired_lvis_file_has_no_names_that_it_did_not_have(validate, tmp_path):
    content = make_lvis()
    content['annotations'].append(content['annotations'][0] | {'id': 99, 'bbox': [1, 2, 0, 9]})
    write_pictures(tmp_path / 'val2017', make_content())
    file = save(tmp_path, content, 'lvis_v1_val.json')
    assert validate(file, '--fix', tmp_path / 'repaired.json').status == 0
    assert json.loads((tmp_path / 'repaired.json').read_text()) == make_lvis()


# ------------------------------------------------------------------------ ODVG


def make_odvg() -> list[dict]:
    content, names = make_content(), ['apple', 'pear', 'plum']
    lines = []
    for image in content['images']:
        instances = [
            {'bbox': [a['bbox'][0], 5, a['bbox'][0] + 20, 35], 'label': label, 'category': names[label]}
            for a in content['annotations']
            if a['image_id'] == image['id'] and (label := a['category_id'] - 1) >= 0
        ]
        size = dict(filename=image['file_name'], height=48, width=64)
        lines.append(size | {'detection': {'instances': instances}})
    return lines


def save_odvg(root, lines, label_map=True):
    file = root / 'train_od.jsonl'
    file.write_text(''.join((line if isinstance(line, str) else json.dumps(line)) + '\n' for line in lines))
    if label_map:
        label_map = {'0': 'apple', '1': 'pear', '2': 'plum'} if label_map is True else label_map
        (root / 'train_od_label_map.json').write_text(json.dumps(label_map))
    return file


def instances_of(lines, line=0):
    return lines[line]['detection']['instances']


ODVG_DEFECTS = [
    ('broken line', lambda lines: lines.insert(1, '{"filename": "2.png",, }'), 'line 2, column 22'),
    ('broken line', lambda lines: lines.insert(1, ''), 'line 2 is empty'),
    ('broken line', lambda lines: lines.insert(1, '[]'), 'line 2 is not an object'),
    ('incomplete record', lambda lines: lines[1].pop('height'), 'line 2: '),
    ('missing key', lambda lines: instances_of(lines)[1].pop('bbox'), 'line 1, instance 1: bbox'),
    ('missing key', lambda lines: instances_of(lines)[1].pop('label'), 'line 1, instance 1: category_id'),
    ('box without area', lambda lines: instances_of(lines)[1].update(bbox=[9, 9, 9, 20]), 'line 1, instance 1: '),
    ('malformed box', lambda lines: instances_of(lines)[1].update(bbox=[9, 9, 9]), 'line 1, instance 1: '),
    (
        'unknown category',
        lambda lines: instances_of(lines)[1].update(label=7, category='x'),
        'no category has the id 7',
    ),
    (
        'label contradicts category',
        lambda lines: instances_of(lines)[1].update(label=2, category='pear'),
        "line 1, instance 1: category 'pear' has the label 2, which means 'plum'",
    ),
    (
        'label contradicts category',
        lambda lines: [i.update(label=i['label'] + 1) for line in lines for i in line['detection']['instances']],
        "category 'apple' has the label 1, which means 'pear'",
    ),
    ('missing image', lambda lines: lines[3].update(filename='absent.png'), 'line 4: '),
    ('wrong image size', lambda lines: lines[3].update(width=65), 'line 4: 4.png is 64 x 48'),
]


@pytest.mark.parametrize('kind, damage, shown', [(None, lambda lines: None, 'no defects'), *ODVG_DEFECTS])
def test_odvg(validate, tmp_path, kind, damage, shown):
    write_pictures(tmp_path / 'images', make_content())
    lines = make_odvg()
    damage(lines)
    file = save_odvg(tmp_path, lines)
    outcome = validate(file)
    assert '(ODVG)' in outcome.out and shown in outcome.out
    assert outcome.status == (kind is not None) and (kind or 'no defects') in outcome.out
    out = tmp_path / 'repaired/train.jsonl'
    assert validate(file, '--fix', out, '--img-dir', tmp_path / 'images').status == 0
    assert validate(out, '--img-dir', tmp_path / 'images').status == 0
    if kind == 'label contradicts category':
        # The name tells what was meant.
        named = {0: 'apple', 1: 'pear', 2: 'plum'}
        for line, repaired in zip(lines, out.read_text().splitlines(), strict=True):
            pairs = zip(instances_of([line]), instances_of([json.loads(repaired)]), strict=True)
            assert all(new['category'] == old['category'] == named[new['label']] for old, new in pairs)
    if kind is None:
        assert [json.loads(line) for line in out.read_text().splitlines()] == make_odvg()


def test_odvg_without_names_in_its_lines_shows_a_shift(validate, tmp_path):
    lines = make_odvg()
    for line in lines:
        for instance in instances_of([line]):
            instance['label'] += 1
            del instance['category']
    outcome = validate(save_odvg(tmp_path, lines), '--no-images', '--fix', tmp_path / 'repaired.jsonl')
    assert outcome.status == 1 and 'category ids off by one' in outcome.out
    assert not (tmp_path / 'repaired.jsonl').exists()


def test_odvg_needs_a_label_map(validate, tmp_path):
    file = save_odvg(tmp_path, make_odvg(), label_map=False)
    outcome = validate(file, '--no-images')
    assert outcome.status == 1 and 'no label map' in outcome.out
    names = tmp_path / 'names/map.json'
    names.parent.mkdir()
    names.write_text('{"0": "apple", "1": "pear", "2": "plum"}')
    assert validate(file, '--no-images', '--label-map', names).status == 0
    names.write_text('["apple"]')
    outcome = validate(file, '--no-images', '--label-map', names)
    assert outcome.status == 2 and 'map.json: not a label map' in outcome.err


def grounding(**changes):
    region = dict(bbox=[4, 5, 20, 30], phrase='a plum', tokens_positive=[[0, 6]]) | changes
    return dict(filename='1.png', height=48, width=64, grounding=dict(caption='a plum on a table', regions=[region]))


@pytest.mark.parametrize(
    'changes, shown',
    [
        ({}, None),
        ({'bbox': [[4, 5, 20, 30], [5, 5, 30, 30]]}, None),
        ({'bbox': [[4, 5, 20, 30], [5, 5, 5, 30]]}, 'line 1, region 0, box 1: bbox [5, 5, 0, 25]'),
        ({'tokens_positive': [[0, 60]]}, 'line 1, region 0: tokens_positive [0, 60] of a caption of 17 characters'),
    ],
)
def test_grounding_lines(validate, tmp_path, changes, shown):
    file = save_odvg(tmp_path, [grounding(**changes)], label_map=False)
    outcome = validate(file, '--no-images')
    assert outcome.status == (shown is not None) and (shown or 'no defects') in outcome.out


def test_detection_and_grounding_do_not_mix(validate, tmp_path):
    outcome = validate(save_odvg(tmp_path, [grounding(), *make_odvg()]), '--no-images')
    assert outcome.status == 1 and 'mixed lines' in outcome.out


# ------------------------------------------------------------------------ random damage

JUNK = [None, True, -1, 0, 2, 3, 99, 1.5, float('nan'), float('inf'), 10**30, '', '3', 'x', [], [1, 2, 3, 4], [[1]], {}]


def places(node):
    """Every (container, key) below a JSON value."""
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from places(node[key])


def damage_at_random(content, rng) -> None:
    """Replace, remove, repeat or add one value anywhere."""
    parent, key = rng.choice(list(places(content)))
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
def test_random_damage_is_survived_and_judged_as_training_does(tmp_path, make):
    file = tmp_path / ('t.jsonl' if make is make_odvg else 't.json')
    outcomes = set()
    for seed in range(120):
        rng = random.Random(seed)
        content = make()
        for _ in range(rng.choice([1, 1, 3])):
            damage_at_random(content, rng)
        if make is make_odvg:
            save_odvg(tmp_path, content).replace(file)
            (tmp_path / 'train_od_label_map.json').replace(tmp_path / 't_label_map.json')
        else:
            file.write_text(json.dumps(content))
        (checked,), _ = check_path(file, look=False)
        json.dumps(as_json([checked]))
        wrong = bool(checked.errors)
        assert text_report([checked]).count('error: ') >= wrong
        outcomes.add(wrong)
        if make is make_content:
            try:
                check_coco(json.loads(file.read_text()), 't.json', None)
                refused = False
            except InputError:
                refused = True
            assert refused == wrong, (seed, checked.errors)
        try:
            repair(checked)
        except InputError:
            continue
        if not checked.errors:
            copied = tmp_path / f'copy{file.suffix}'
            write(checked.content, copied)
            assert check_path(copied, look=False)[0][0].errors == [], seed
            outcomes.add('repaired')
    assert outcomes == {False, True, 'repaired'}


# ------------------------------------------------------------------------ the catalogue


def test_every_kind_of_defect_is_made_by_a_test():
    """A kind that no test makes might never be found."""
    made = {kind for kind, *_ in (*COCO_DEFECTS, *ODVG_DEFECTS)}
    elsewhere = {
        'broken JSON',
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
    }
    assert made | elsewhere == set(KINDS) and not made & elsewhere


def test_a_repair_that_leaves_no_image_is_refused(root):
    content = make_content()
    every('images', lambda image: image.update(file_name=f'absent{image["id"]}.png'))(content)
    results, _ = check_path(save(root, content), img_dir=root / 'images')
    with pytest.raises(InputError, match='no image would be left'):
        repair(results[0])
