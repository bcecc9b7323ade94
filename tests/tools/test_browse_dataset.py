"""browse_dataset draws the images of a split with boxes and prompts; run_mmdet_tool runs a tool of MMDetection."""

import json
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from dinor1.visualization import class_colors
from dinor1.visualization.samples import crop, draw_truth, prepared_image, stack, with_strip
from tests.datasets.conftest import _frozen_imports  # noqa: F401  (a fixture)
from tests.tools.conftest import readable_image


@pytest.fixture
def browse(call, run_config, tmp_path):
    """``browse(option, ...)`` writes drawings to ``tmp_path / 'out'``."""
    return lambda *options: call('analysis_tools/browse_dataset', run_config, '--out-dir', tmp_path / 'out', *options)


def drawn(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / 'out').iterdir())


def has_color(image, color) -> bool:
    return bool((image == color).all(-1).any())


# ------------------------------------------------------------------------ the tool


def test_browse_dataset_draws_prompts_of_batch(browse, run_config, tmp_path):
    outcome = browse('--number', 3)
    assert outcome.status == 0, outcome.err
    assert f'3 images: {tmp_path / "out"}' in outcome.out
    assert len(drawn(tmp_path)) == 3
    size = Config.fromfile(run_config).train_dataloader.dataset.pipeline[-2].size
    for name in drawn(tmp_path):
        image = readable_image(tmp_path / 'out' / name)
        # The prepared image of 160 pixels is enlarged to 480; above it is the strip of three prompts.
        assert size == (160, 160)
        assert image.shape[1] == 480
        assert image.shape[0] > 480 + 96
        strip, below = image[:-480], image[-480:]
        for color in class_colors(3):
            assert has_color(strip, color)
            assert has_color(below, color)


def test_browse_dataset_matches_classes_by_name(call, run_config, tmp_path):
    """One set has classes 0, 1 and 2, the other 2 and 0: there are three colours, and all labels have names."""
    cfg = Config.fromfile(run_config)
    part = cfg.train_dataloader.dataset.to_dict() | dict(return_classes=True)
    names = [c['name'] for c in json.loads((Path(part['data_root']) / part['ann_file']).read_text())['categories']]
    pair = [part | dict(metainfo=dict(classes=classes)) for classes in ((names[2], names[0]), tuple(names))]
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=pair, ignore_keys=['classes', 'palette'])
    cfg.dump(tmp_path / 'both.py')
    outcome = call('analysis_tools/browse_dataset', tmp_path / 'both.py', '--out-dir', tmp_path / 'out', '--number', 4)
    assert outcome.status == 0
    assert len(drawn(tmp_path)) == 4


def test_browse_dataset_epoch_changes_augmentation(browse, tmp_path):
    def read():
        return {name.split('_')[1]: readable_image(tmp_path / 'out' / name)[-480:] for name in drawn(tmp_path)}

    browse('--number', 5)
    first = read()
    browse('--number', 5)
    assert all((first[name] == image).all() for name, image in read().items())
    for path in (tmp_path / 'out').iterdir():
        path.unlink()
    browse('--number', 5, '--epoch', 1)
    second = read()
    assert first.keys() == second.keys()
    assert len(first) == 5
    assert any((first[name] != second[name]).any() for name in first)


@pytest.mark.parametrize('split', ['val', 'test'])
def test_browse_dataset_draws_images_of_evaluation(browse, data_dir, tmp_path, split):
    assert browse('--split', split).status == 0
    assert drawn(tmp_path) == ['0000_0.png', '0001_1.png', 'prompts.png']
    image = readable_image(tmp_path / 'out/0000_0.png')
    assert image.shape == (360, 480, 3)  # 64 x 48, enlarged
    # The first box is [4, 5, 14, 20]: its left edge is drawn at 4 * 7.5 pixels.
    color = np.array(class_colors(3)[0])
    assert (image[60:180, 30] == color).all()
    original = cv2.imread(str(data_dir / 'shapes/images/val_base/0.png'))
    enlarged = cv2.resize(original, None, fx=7.5, fy=7.5, interpolation=cv2.INTER_NEAREST)
    assert (image[300:] == enlarged[300:]).all()
    strip = readable_image(tmp_path / 'out/prompts.png')
    assert all(has_color(strip, color) for color in class_colors(3))


def test_browse_dataset_draws_images_of_exemplars(browse, tmp_path):
    assert browse('--split', 'prompt', '--cfg-options', 'test_cfg.prompts.num_exemplars=1').status == 0
    # There is one exemplar for each of three classes, on up to three images.
    assert 1 <= len(drawn(tmp_path)) <= 3
    images = [readable_image(tmp_path / 'out' / name) for name in drawn(tmp_path)]
    assert {i for i, color in enumerate(class_colors(3)) if any(has_color(p, color) for p in images)} == {0, 1, 2}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--number', '0'], '--number must be at least 1, got 0'),
        (['--split', 'val', '--cfg-options', 'val_dataloader=None'], 'has no val_dataloader'),
        (['--cfg-options', 'train_dataloader.dataset.ann_file=absent.json'], 'absent.json: no such file'),
    ],
)
def test_browse_dataset_bad_input(browse, tmp_path, options, message):
    outcome = browse(*options)
    assert outcome.status == 2
    assert message in outcome.err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('data', [b'', b'no image'])
def test_browse_dataset_names_unreadable_image(call, run_config, data_dir, tmp_path, data):
    root = tmp_path / 'data'
    shutil.copytree(data_dir, root)
    path = root / 'shapes/images/val_base/0.png'
    path.write_bytes(data)
    config = tmp_path / 'spoilt.py'
    config.write_text(run_config.read_text().replace(str(data_dir), str(root)))
    outcome = call('analysis_tools/browse_dataset', config, '--split', 'val', '--out-dir', tmp_path / 'out')
    assert outcome.status == 2
    assert outcome.err.startswith(f'error: {path}: {"not an image" if data else "an empty file"}')
    assert len(outcome.err.splitlines()) == 1


# ------------------------------------------------------------------------ drawing

GREY = np.full((48, 64, 3), 100, np.uint8)


def test_prepared_image_returns_pixels():
    pixels = torch.arange(2 * 3 * 3).reshape(3, 2, 3).byte()
    image = prepared_image(pixels)
    assert image.shape == (2, 3, 3)
    assert (image == pixels.numpy().transpose(1, 2, 0)).all()
    assert prepared_image(torch.tensor([[[-5.0]], [[300.0]], [[7.9]]])).tolist() == [[[0, 255, 7]]]


@pytest.mark.parametrize(
    ('box', 'shape'), [([4, 5, 14, 25], (20, 10)), ([-9, -9, 4, 5], (5, 4)), ([63.5, 47.5, 63.6, 47.6], (1, 1))]
)
def test_crop_has_at_least_one_pixel(box, shape):
    assert crop(GREY, box).shape[:2] == shape
    assert crop(GREY, [70, 60, 90, 80]).shape[:2] == (1, 1)


def test_draw_truth_marks_prompts_and_ignored_boxes():
    boxes, colors = np.array([[4, 5, 24, 25], [30, 10, 60, 40]]), [(0, 0, 255)]
    plain = draw_truth(GREY, boxes, [0, -1], ['cat'], colors)
    framed = draw_truth(GREY, boxes, [0, -1], ['cat'], colors, prompts=[0])
    assert has_color(plain, (0, 0, 255))
    assert has_color(plain, (128, 128, 128))
    white = (framed[100:180] == 255).all(-1)
    assert white[:, 32].all()
    assert not (plain[100:180] == 255).all(-1).any()
    assert draw_truth(GREY, np.zeros((0, 4)), [], [], []).shape == (360, 480, 3)


def test_with_strip_and_stack_pad_narrower_image():
    assert with_strip(GREY, [], [], []) is GREY
    assert with_strip(GREY, [GREY], ['cat'], [(0, 0, 255)]).shape[0] > 48 + 96
    both = stack(GREY[:, :10], GREY)
    assert both.shape == (96, 64, 3)
    assert (both[:48, 10:] == 245).all()


# ------------------------------------------------------------------------ MMDetection's tools


@pytest.mark.filterwarnings('ignore:invalid value encountered in divide')
def test_run_mmdet_tool_confusion_matrix(call, run_config, data_dir, tmp_path):
    pytest.importorskip('matplotlib')
    # Write predictions equal to the annotations.
    content = json.loads((data_dir / 'shapes/annotations/val_base.json').read_text())
    results = []
    for image in content['images']:
        own = [a for a in content['annotations'] if a['image_id'] == image['id']]
        boxes = torch.tensor([a['bbox'] for a in own]).float()
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([a['category_id'] for a in own])
        results.append(dict(img_id=image['id'], pred_instances=dict(bboxes=boxes, labels=labels, scores=labels + 0.5)))
    (tmp_path / 'pred.pkl').write_bytes(pickle.dumps(results))
    # Draw their confusion matrix.
    arguments = (run_config, tmp_path / 'pred.pkl', tmp_path / 'out')
    outcome = call('analysis_tools/run_mmdet_tool', 'confusion_matrix', *arguments)
    assert outcome.status == 0, outcome.err
    assert readable_image(tmp_path / 'out/confusion_matrix.png').size


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['confusion_matrx'], "confusion_matrx: no such tool; did you mean 'confusion_matrix'?"),
        ([], 'there are analyze_logs, '),
        (['zzz'], 'there are analyze_logs, '),
    ],
)
def test_run_mmdet_tool_unknown_name(call, arguments, message):
    outcome = call('analysis_tools/run_mmdet_tool', *arguments)
    assert outcome.status == 2
    assert message in outcome.err
