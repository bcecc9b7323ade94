"""The icon world as files: reproducible, exhaustive, readable as COCO and LVIS, never half-written."""

import collections
import json
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from pycocotools.coco import COCO

from dinor1.cli.main import main
from dinor1.datasets.icons import world
from dinor1.datasets.icons.plan import frequency, plan_split
from dinor1.datasets.icons.render import SIDE, DrawingCache, render
from dinor1.datasets.icons.scenes import MAX_OBJECTS, compose
from dinor1.datasets.icons.sheet import contact_sheet
from dinor1.datasets.icons.splits import SPLITS
from dinor1.datasets.icons.sprites import make_sprite
from dinor1.datasets.icons.world import MANIFEST_NAME, PRESETS, draw_images, generate
from dinor1.evaluation import LVISFixedMetric
from dinor1.evaluation.lvis_ground_truth import LVISGroundTruth
from dinor1.registry import DATASETS, METRICS
from dinor1.utils.errors import InputError
from tests.icon_files import SIZES

CONFIGS = Path(__file__).parents[3] / 'configs' / '_base_' / 'datasets'
SIDES = PRESETS['small'].sides


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}


# Drawings --------------------------------------------------------------------------------------------------


def test_render_crops_and_centres(draw):
    pytest.importorskip('resvg_py')
    empty = render(draw.svg(''))
    assert empty.shape == (SIDE, SIDE, 4)
    assert not empty.any()
    # A rectangle of 40 x 20 anywhere becomes 96 x 48 in the middle.
    image = render(draw.svg('<rect x="3" y="1" width="40" height="20" fill="#0000ff"/>'))
    box = cv2.boundingRect((image[..., 3] > 127).astype(np.uint8))
    assert box == pytest.approx((0, SIDE // 4, SIDE, SIDE // 2), abs=1)
    assert image[SIDE // 2, SIDE // 2].tolist() == [255, 0, 0, 255]
    with pytest.raises(InputError, match='not valid SVG'):
        render('<svg')


def test_cache_returns_the_rendered_drawings(tiny_library, tiny_drawings, tmp_path, monkeypatch):
    drawings = tiny_drawings[:3] + tiny_drawings[-1:]
    cache = DrawingCache(tmp_path, {'a': '1'})
    first = cache.render(drawings)
    assert first.colour_index.tolist() == [-1, -1, -1, 0]
    monkeypatch.setattr('dinor1.datasets.icons.render.render', lambda *_: pytest.fail('rendered again'))
    for a, b in zip(first, cache.render(drawings), strict=True):
        np.testing.assert_array_equal(a, b)
    monkeypatch.undo()
    # Other drawings, a damaged file and another version are rendered again.
    assert len(cache.render(drawings[:2]).opacity) == 2
    cache.path.write_bytes(b'nothing')
    np.testing.assert_array_equal(cache.render(drawings).opacity, first.opacity)
    assert DrawingCache(tmp_path, {'a': '2'}).path != cache.path


# Images ----------------------------------------------------------------------------------------------------


def test_compose_without_objects(tiny_library):
    scene = compose(np.random.default_rng(0), tiny_library.rendered, [], [], (64, 64))
    assert scene.pixels.shape == (64, 64, 3)
    assert scene.boxes.shape == (0, 4)
    with pytest.raises(ValueError, match='at most 20'):
        compose(np.random.default_rng(0), tiny_library.rendered, [0] * 21, [], SIDES)


def test_boxes_are_inside_and_objects_are_kept(tiny_library):
    requested = found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        objects = rng.integers(0, 160, size=int(rng.integers(1, MAX_OBJECTS + 1))).tolist()
        scene = compose(rng, tiny_library.rendered, objects, [161, 162], SIDES)
        height, width = scene.pixels.shape[:2]
        assert SIDES[0] <= min(height, width)
        assert max(height, width) <= SIDES[1]
        x, y, w, h = scene.boxes.T
        assert min(x.min(), y.min()) >= 0
        assert (x + w <= width).all()
        assert (y + h <= height).all()
        assert min(w.min(), h.min()) >= 2
        assert (scene.areas <= w * h).all()
        assert (scene.areas > 0).all()
        assert (np.diff(scene.objects) > 0).all()
        requested, found = requested + len(objects), found + len(scene.objects)
    assert found > 0.97 * requested


def test_sprite_is_tight_and_has_its_size(tiny_library):
    rng = np.random.default_rng(0)
    for size in (16, 40, 96):
        sprite = make_sprite(rng, tiny_library.rendered, 0, size, distort=False)
        assert sprite.opacity.shape == (size, size)
        bent = make_sprite(rng, tiny_library.rendered, 0, size, distort=True)
        assert max(bent.opacity.shape) < 1.9 * size
        assert min(bent.opacity[0].max(), bent.opacity[:, -1].max()) >= 64


# Plan ------------------------------------------------------------------------------------------------------


def test_training_follows_a_power_law():
    concepts = [f'c{i}' for i in range(1200)]
    plan = list(plan_split(0, 'train', 4000, concepts))
    images = collections.Counter(name for names in plan for name in set(names))
    counts = np.array([images[name] for name in concepts])
    assert counts[:50].mean() > 8 * counts[-400:].mean()
    letters = collections.Counter(frequency(count, 4000) for count in counts.tolist())
    assert min(letters[letter] for letter in 'rcf') >= 80
    assert min(map(len, plan)) == 3
    assert max(map(len, plan)) == MAX_OBJECTS
    assert any(len(set(names)) < len(names) for names in plan)


@pytest.mark.parametrize(('split', 'size'), [('val_novel', 150), ('test_novel', 300)])
def test_every_novel_concept_has_twenty_instances(split, size):
    concepts = [f'c{i}' for i in range(size)]
    plan = plan_split(0, split, PRESETS['small'].sizes[split], concepts)
    counts = collections.Counter(name for names in plan for name in names)
    assert min(counts[name] for name in concepts) >= 22
    assert max(counts.values()) <= 2 * min(counts.values())


def test_a_plan_does_not_depend_on_the_number_of_images():
    concepts = ['a', 'b', 'c']
    long = list(plan_split(0, 'val_base', 9, concepts))
    assert list(plan_split(0, 'val_base', 3, concepts)) == long[:3]
    assert list(plan_split(1, 'val_base', 9, concepts)) != long


# Files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('split', SPLITS)
def test_labels_are_exhaustive_and_exact(small_world, tiny_library, split):
    """The file holds exactly the objects of the images, with the drawings that the split may show."""
    coco = COCO(str(small_world / 'annotations' / f'{split}.json'))
    names = {category['id']: category['name'] for category in coco.cats.values()}
    assert set(names.values()) == set(tiny_library.splits.categories(split))
    plan = list(plan_split(0, split, SIZES[split], tiny_library.splits.categories(split)))
    images = draw_images(tiny_library, 0, split, SIDES, 0, plan)
    allowed = tiny_library.splits.drawings[split]
    for image, (planned, scene, chosen) in zip(coco.imgs.values(), images, strict=True):
        annotations = coco.imgToAnns[image['id']]
        assert [names[a['category_id']] for a in annotations] == [planned[i] for i in scene.objects]
        assert [a['bbox'] for a in annotations] == scene.boxes.tolist()
        assert [a['drawing'] for a in annotations] == [tiny_library.keys[chosen[i]] for i in scene.objects]
        assert all(chosen[i] in allowed[planned[i]] for i in scene.objects)
        pixels = cv2.imread(str(small_world / 'images' / split / image['file_name']))
        assert pixels.shape == scene.pixels.shape == (image['height'], image['width'], 3)
        # Compression of the file changes little.
        assert np.abs(pixels.astype(int) - scene.pixels).mean() < 8


def test_frequencies_are_counted_in_training(small_world):
    train = json.loads((small_world / 'annotations/train.json').read_text())
    images = collections.defaultdict(set)
    for annotation in train['annotations']:
        images[annotation['category_id']].add(annotation['image_id'])
    for split in ('train', 'val_base', 'test_novel'):
        for category in json.loads((small_world / f'annotations/{split}.json').read_text())['categories']:
            assert category['image_count'] == len(images[category['id']])
            assert category['frequency'] == frequency(category['image_count'], SIZES['train'])
            assert split != 'test_novel' or category['frequency'] == 'r'


def test_lvis_metric_reads_it(small_world):
    path = small_world / 'annotations/test_novel.json'
    truth = LVISGroundTruth.read(path)
    # Exhaustive labels: every category is judged in every image.
    assert truth.judged.all()
    assert not truth.not_exhaustive.any()
    assert LVISFixedMetric(str(path)).num_collected == 0


def test_same_bytes_with_several_processes_and_other_ones_with_another_seed(small_world, tiny_library, tmp_path):
    generate(tmp_path / 'again', sizes=SIZES, library=tiny_library, workers=2)
    assert contents(tmp_path / 'again') == contents(small_world)
    generate(tmp_path / 'other', sizes=SIZES, library=tiny_library, seed=1)
    first = json.loads((small_world / MANIFEST_NAME).read_text())
    other = json.loads((tmp_path / 'other' / MANIFEST_NAME).read_text())
    assert all(first['checksums'][split] != other['checksums'][split] for split in SPLITS)
    assert first['drawings'] == other['drawings']
    assert first['packages'] == {'made here': '1'}


def test_generate_keeps_an_existing_data_set(small_world, tiny_library):
    before = (small_world / MANIFEST_NAME).stat().st_mtime_ns
    assert not generate(small_world, sizes=SIZES, library=tiny_library)
    assert (small_world / MANIFEST_NAME).stat().st_mtime_ns == before


@pytest.mark.parametrize('name', ['icons', 'icons_novel'])
def test_configs_read_it(small_world, monkeypatch, name):
    monkeypatch.setenv('DINOR1_DATA', str(small_world.parent))
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    for dataset in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset, cfg.prompt_dataset):
        built = DATASETS.build(dataset)
        assert built[0]['inputs'].shape == (3, 192, 192)
    # Exemplars are of the categories that are evaluated.
    assert built.metainfo['classes'] == DATASETS.build(cfg.test_dataloader.dataset).metainfo['classes']
    METRICS.build(cfg.test_evaluator)


# Bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'seed': -1}, 'seed -1'),
        ({'workers': 0}, '0 workers'),
        ({'preset': 'huge'}, "unknown preset 'huge'"),
        ({'sizes': {'train': 0}}, '0 images in train'),
        ({'sizes': {'test': 5}}, "unknown split 'test'"),
    ],
)
def test_generate_icons_rejects_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        generate(tmp_path / 'icons', **arguments)
    assert not list(tmp_path.iterdir())


def test_other_arguments_and_other_packs_need_force(small_world, tiny_library, tmp_path):
    with pytest.raises(InputError, match='another argument .train 12 instead of 13.*--force'):
        generate(small_world, sizes=SIZES | {'train': 13}, library=tiny_library)
    changed = type(tiny_library)(**{**vars(tiny_library), 'versions': {'made here': '2'}})
    with pytest.raises(InputError, match='another package .made here 1 instead of 2.*--force'):
        generate(small_world, sizes=SIZES, library=changed)


def test_missing_files_are_noticed(tiny_library, tmp_path):
    sizes = dict.fromkeys(SPLITS, 1)
    generate(tmp_path / 'icons', sizes=sizes, library=tiny_library)
    (tmp_path / 'icons/images/val_base/000001.jpg').unlink()
    with pytest.raises(InputError, match='val_base.*--force'):
        generate(tmp_path / 'icons', sizes=sizes, library=tiny_library)
    assert generate(tmp_path / 'icons', sizes=sizes, library=tiny_library, force=True)


def test_generate_rejects_a_folder_of_other_content(tiny_library, tmp_path):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos/holiday.jpg').write_bytes(b'')
    for force in (False, True):
        with pytest.raises(InputError, match='not an icon world'):
            generate(tmp_path / 'photos', library=tiny_library, force=force)
        with pytest.raises(InputError, match='is a file'):
            generate(tmp_path / 'photos/holiday.jpg', library=tiny_library, force=force)
        with pytest.raises(InputError, match='cannot be written'):
            generate(tmp_path / 'photos/holiday.jpg/icons', library=tiny_library, force=force)


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_generate_keeps_the_old_data_after_a_failure(tiny_library, tmp_path, monkeypatch, error):
    root = tmp_path / 'icons'
    generate(root, sizes=dict.fromkeys(SPLITS, 1), library=tiny_library)
    before = contents(root)

    def fail(*_):
        raise error

    monkeypatch.setattr(world, 'compose', fail)
    with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt):
        generate(root, sizes=SIZES, library=tiny_library, force=True)
    assert contents(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ['icons']


# Contact sheet ---------------------------------------------------------------------------------------------


def test_contact_sheet_shows_every_concept(tiny_library):
    sheet = contact_sheet(tiny_library, 'test_novel', columns=2)
    assert sheet.dtype == np.uint8
    cell_height, cell_width = sheet.shape[0] // 2, sheet.shape[1] // 2
    for row in range(2):
        for column in range(2):
            cell = sheet[row * cell_height : (row + 1) * cell_height, column * cell_width : (column + 1) * cell_width]
            assert (cell < 128).any()
    with pytest.raises(InputError, match="unknown split 'test'"):
        contact_sheet(tiny_library, 'test')
    with pytest.raises(InputError, match='0 columns'):
        contact_sheet(tiny_library, 'train', columns=0)


# Command line ----------------------------------------------------------------------------------------------


def run_command(monkeypatch, *arguments):
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, 'argv', ['dinor1', 'make-data', 'icons', *map(str, arguments)])
    try:
        main()
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def installed_tiny(tiny_library, monkeypatch):
    """The tiny library in place of the installed packs."""
    monkeypatch.setattr('dinor1.datasets.icons.packs.versions', lambda: dict(tiny_library.versions))
    monkeypatch.setattr('dinor1.datasets.icons.world.load_library', lambda *_: tiny_library)
    monkeypatch.setattr('dinor1.cli.make_data.load_library', lambda *_, **__: tiny_library)


def test_command_prints_statistics(installed_tiny, tmp_path, monkeypatch, capsys):
    sizes = [f'{split}=1' for split in SPLITS]
    for expected in ('written to', 'already there'):
        run_command(monkeypatch, '--out', tmp_path / 'icons', '--workers', 1, '--sizes', *sizes)
        output = capsys.readouterr().out
        assert all(split in output for split in SPLITS)
        assert 'largest silhouette IoU: val_novel/train 0.' in output
        assert expected in output.splitlines()[-1]


def test_command_draws_a_sheet(installed_tiny, tmp_path, monkeypatch, capsys):
    run_command(monkeypatch, '--sheet', tmp_path / 'sheet.png', '--sheet-split', 'val_novel')
    assert capsys.readouterr().out.splitlines()[-1].startswith('3 concepts of val_novel')
    assert cv2.imread(str(tmp_path / 'sheet.png')) is not None
    assert [path.name for path in tmp_path.iterdir()] == ['sheet.png']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--sizes', 'train'], 'SPLIT=N'),
        (['--sizes', 'tran=3'], "unknown split 'tran'"),
        (['--sheet', 'sheet.png', '--sheet-split', 'test'], 'unknown split'),
        (['--sheet', '.'], 'is a folder'),
    ],
)
def test_command_rejects_bad_options(installed_tiny, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run_command(monkeypatch, *arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1
    assert not list(tmp_path.iterdir())
