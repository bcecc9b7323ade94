"""The shapes world: the same bytes everywhere, valid COCO files, exact boxes, balanced categories."""

import collections
import hashlib
import io
import runpy
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from dinor1.datasets import shapes_world
from dinor1.datasets.shapes_world import (
    BASE_CATEGORIES,
    CATEGORIES,
    CATEGORY_IDS,
    DEFAULT_SIZES,
    FILLS,
    MAX_OBJECTS,
    NOVEL_CATEGORIES,
    NOVEL_SPLITS,
    SHAPES,
    box_of_mask,
    encode_png,
    generate,
    plan_split,
    render_image,
    render_split,
)
from dinor1.utils.errors import InputError

SMALL = {'train': 12, 'val_base': 6, 'val_novel': 6, 'support_novel': 4}


@pytest.fixture(scope='module')
def small_world(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    assert generate(root, sizes=SMALL)
    return root


def _contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}


def test_render_image_without_objects_is_background():
    pixels, masks = render_image(np.random.default_rng(0), [])
    height, width, channels = pixels.shape
    assert pixels.dtype == np.uint8
    assert channels == 3
    assert 128 <= height <= 160
    assert 128 <= width <= 160
    assert masks.shape == (0, height, width)


def test_render_image_rejects_unknown_and_too_many_objects():
    with pytest.raises(ValueError, match='dotted circle'):
        render_image(np.random.default_rng(0), ['solid circle', 'dotted circle'])
    with pytest.raises(ValueError, match='at most 6'):
        render_image(np.random.default_rng(0), ['solid circle'] * 7)


def test_novel_categories_pair_each_shape_and_each_fill_once():
    assert len(BASE_CATEGORIES) == 12
    assert len(CATEGORIES) == 16
    fills, shapes = zip(*(name.split() for name in NOVEL_CATEGORIES), strict=True)
    assert sorted(fills) == sorted(FILLS)
    assert sorted(shapes) == sorted(SHAPES)
    assert sorted(CATEGORY_IDS.values()) == list(range(1, 17))


def test_generate_writes_known_bytes(small_world):
    """Bytes are equal on every machine. After an intended change, increase GENERATOR_VERSION and update the digest."""
    digest = hashlib.sha256()
    for name, content in _contents(small_world).items():
        digest.update(name.encode() + b'\0' + content)
    assert digest.hexdigest() == 'cd272a6ccbe25f90cab3df5358d23f277aa3e78e93fd04d06a4069a172ce13c6'


def test_generate_depends_on_seed_only(small_world, tmp_path):
    generate(tmp_path / 'again', sizes=SMALL)
    assert _contents(tmp_path / 'again') == _contents(small_world)
    generate(tmp_path / 'other', seed=1, sizes=SMALL)
    assert _contents(tmp_path / 'other').keys() == _contents(small_world).keys()
    first = 'images/train/000001.png'
    assert _contents(tmp_path / 'other')[first] != _contents(small_world)[first]


def test_images_do_not_depend_on_the_size_of_the_split(small_world, tmp_path):
    generate(tmp_path / 'fewer', sizes={name: 2 for name in SMALL})
    fewer, more = _contents(tmp_path / 'fewer'), _contents(small_world)
    images = [name for name in fewer if name.endswith('.png')]
    assert len(images) == 8
    assert all(fewer[name] == more[name] for name in images)


def test_generated_images_differ(small_world):
    images = [content for name, content in _contents(small_world).items() if name.endswith('.png')]
    assert len(set(images)) == len(images) == sum(SMALL.values())


@pytest.mark.parametrize('split', DEFAULT_SIZES)
def test_generated_annotations_are_valid_coco(small_world, split):
    coco = COCO(str(small_world / 'annotations' / f'{split}.json'))
    listed = NOVEL_CATEGORIES if split in NOVEL_SPLITS else BASE_CATEGORIES
    assert {(c['id'], c['name']) for c in coco.cats.values()} == {(CATEGORY_IDS[n], n) for n in listed}
    # The supercategory is the shape, so that error analyses can count confusions of fills separately.
    assert {(c['name'], c['supercategory']) for c in coco.cats.values()} == {(n, n.split()[1]) for n in listed}
    assert len(coco.imgs) == SMALL[split] == len(coco.dataset['images'])
    assert len(coco.anns) == len(coco.dataset['annotations'])
    for image in coco.imgs.values():
        pixels = cv2.imread(str(small_world / 'images' / split / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3)
        annotations = coco.imgToAnns[image['id']]
        assert 1 <= len(annotations) <= MAX_OBJECTS
        for annotation in annotations:
            assert annotation['category_id'] in coco.cats
            assert annotation['iscrowd'] == 0
            x, y, w, h = annotation['bbox']
            assert x >= 0
            assert y >= 0
            assert x + w <= image['width']
            assert y + h <= image['height']
            assert min(w, h) >= 8
            assert 0 < annotation['area'] <= w * h


@pytest.mark.parametrize('split', DEFAULT_SIZES)
def test_generated_annotations_follow_the_plan(small_world, split):
    """Exactly the drawn objects of listed categories are annotated, with the boxes of their silhouettes."""
    coco = COCO(str(small_world / 'annotations' / f'{split}.json'))
    for index, (names, image) in enumerate(render_split(0, split, SMALL[split])):
        expected = [
            (CATEGORY_IDS[name], list(cv2.boundingRect(mask.astype(np.uint8))), int(mask.sum()))
            for name, mask in zip(names, image.masks, strict=True)
            if CATEGORY_IDS[name] in coco.cats
        ]
        found = [(a['category_id'], a['bbox'], a['area']) for a in coco.imgToAnns[index + 1]]
        assert found == expected


@pytest.mark.parametrize('name', CATEGORIES)
def test_box_surrounds_painted_pixels(name):
    """The same random state gives the same background without objects: the difference is the object."""
    for seed in range(4):
        pixels, masks = render_image(np.random.default_rng(seed), [name])
        background, _ = render_image(np.random.default_rng(seed), [])
        changed = (pixels != background).any(axis=2)
        x, y, w, h = box_of_mask(masks[0])
        left, top, width, height = cv2.boundingRect(changed.astype(np.uint8))
        # A pixel that is covered by less than half is painted, but not in the mask: at most one pixel, or two at
        # the tip of a sharp corner.
        assert np.abs(np.array([left - x, top - y, left + width - x - w, top + height - y - h])).max() <= 2
        # Single painted pixels rarely equal the background: the colour differs from its mean by a minimum distance.
        assert changed[masks[0]].mean() > 0.97
        assert not (changed & ~cv2.dilate(masks[0].astype(np.uint8), np.ones((5, 5))).astype(bool)).any()


def test_sizes_and_occlusion_are_within_limits():
    diameters = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        names = [CATEGORIES[i] for i in rng.integers(0, 16, size=MAX_OBJECTS)]
        _, masks = render_image(rng, names)
        assert len(masks) == MAX_OBJECTS
        for i, mask in enumerate(masks):
            covered = mask & masks[i + 1 :].any(axis=0)
            assert covered.sum() <= 0.25 * mask.sum()
            diameters.append(np.sqrt(np.prod(box_of_mask(mask)[2:])))
    # Diameters are 32 to 72. The box of a rotated or stretched shape may be up to a quarter larger, that of an
    # axis-aligned square or of a shape that the border cuts a quarter smaller.
    assert 0.75 * 32 <= min(diameters) < 33
    assert 60 < max(diameters) <= 1.25 * 72


@pytest.mark.parametrize('split', DEFAULT_SIZES)
def test_categories_are_balanced_and_novel_ones_separate(split):
    plan = list(plan_split(0, split, DEFAULT_SIZES[split]))
    counts = collections.Counter(name for names in plan for name in names)
    if split in NOVEL_SPLITS:
        assert set(counts) == set(CATEGORIES)
        assert all(set(names) & set(NOVEL_CATEGORIES) for names in plan)
    else:
        assert set(counts) == set(BASE_CATEGORIES)
        assert {len(names) for names in plan} == set(range(1, MAX_OBJECTS + 1))
    for group in (BASE_CATEGORIES, NOVEL_CATEGORIES):
        # Names are drawn from shuffled decks with four of each; only the last deck is incomplete.
        assert max(counts[name] for name in group) - min(counts[name] for name in group) <= 4


def test_colour_does_not_predict_the_category():
    """A nearest-mean classifier on the mean colour of objects is within 4 standard deviations of chance."""
    per_category = 24
    features, labels = [], []
    for label, name in enumerate(CATEGORIES):
        for index in range(per_category):
            pixels, masks = render_image(np.random.default_rng([label, index]), [name])
            features.append(pixels[masks[0]].mean(axis=0))
            labels.append(label)
    features, labels = np.array(features), np.array(labels)
    trained = np.arange(len(labels)) % 2 == 0

    def accuracy(x):
        means = np.stack([x[trained & (labels == k)].mean(axis=0) for k in range(16)])
        distances = np.linalg.norm(x[~trained, None] - means, axis=-1)
        return (distances.argmin(axis=1) == labels[~trained]).mean()

    chance, tested = 1 / 16, (~trained).sum()
    limit = chance + 4 * np.sqrt(chance * (1 - chance) / tested)
    assert accuracy(features) < limit
    # The classifier detects a tint that depends on the category.
    tint = np.random.default_rng(0).integers(-80, 80, size=(16, 3))
    assert accuracy(features + tint[labels]) > limit


def test_encode_png_is_readable_by_opencv_and_pillow():
    # One stored block, two, and exactly one full block: 51 * (1 + 3 * 428) = 65,535 bytes.
    for shape in ((1, 1, 3), (160, 150, 3), (51, 428, 3)):
        pixels = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
        data = encode_png(pixels)
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), pixels)
        image = Image.open(io.BytesIO(data))
        image.verify()
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data)))[..., ::-1], pixels)


def test_generate_skips_existing_data_set(small_world):
    before = (small_world / 'shapes.json').stat().st_mtime_ns
    assert not generate(small_world, sizes=SMALL)
    assert (small_world / 'shapes.json').stat().st_mtime_ns == before


@pytest.fixture
def tiny_world(tmp_path):
    root = tmp_path / 'shapes'
    generate(root, sizes={name: 1 for name in DEFAULT_SIZES})
    return root


def test_generate_with_other_arguments_needs_force(tiny_world):
    sizes = {**{name: 1 for name in DEFAULT_SIZES}, 'train': 2}
    with pytest.raises(InputError, match='--force'):
        generate(tiny_world, sizes=sizes)
    assert generate(tiny_world, sizes=sizes, force=True)
    assert len(list((tiny_world / 'images' / 'train').iterdir())) == 2
    assert [path.name for path in tiny_world.parent.iterdir()] == ['shapes']


def test_generate_rejects_incomplete_data_set(tiny_world):
    (tiny_world / 'images' / 'val_base' / '000001.png').unlink()
    with pytest.raises(InputError, match='val_base.*--force'):
        generate(tiny_world, sizes={name: 1 for name in DEFAULT_SIZES})


def test_generate_rejects_foreign_folders(tmp_path):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'holiday.jpg').write_bytes(b'')
    for force in (False, True):
        with pytest.raises(InputError, match='photos'):
            generate(tmp_path / 'photos', sizes=SMALL, force=force)
        with pytest.raises(InputError, match='is a file'):
            generate(tmp_path / 'photos' / 'holiday.jpg', sizes=SMALL, force=force)
    assert [path.name for path in tmp_path.rglob('*.*')] == ['holiday.jpg']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'seed': -1}, 'seed -1'),
        ({'sizes': {'train': 0}}, '0 images in train'),
        ({'sizes': {'test': 5}}, "unknown split 'test'"),
    ],
)
def test_generate_rejects_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        generate(tmp_path / 'shapes', **arguments)
    assert not list(tmp_path.iterdir())


def test_failed_generation_keeps_old_data(tiny_world, monkeypatch):
    before = _contents(tiny_world)

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(shapes_world, 'encode_png', fail)
    with pytest.raises(InputError, match='No space left'):
        generate(tiny_world, sizes=SMALL, force=True)
    assert _contents(tiny_world) == before
    assert [path.name for path in tiny_world.parent.iterdir()] == ['shapes']


def test_command_prints_the_data_folder(tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'make_shapes.py'
    options = [f'--num-{name.replace("_", "-")}=1' for name in DEFAULT_SIZES]
    monkeypatch.setattr(sys, 'argv', [str(script), f'--out={tmp_path / "shapes"}', *options])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        # The first run writes the data set, and the second finds it.
        for expected in ('written to', 'already there'):
            runpy.run_path(str(script), run_name='__main__')
            last_line = capsys.readouterr().out.splitlines()[-1]
            assert expected in last_line
            assert last_line.endswith(str(tmp_path / 'shapes'))
        # Another seed is a user error.
        sys.argv.append('--seed=7')
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(script), run_name='__main__')
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count('\n') == 1
