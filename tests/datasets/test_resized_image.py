"""LoadResizedImage agrees with LoadImageFromFile and Resize, with reduced decoding or a cache."""

import io

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.image.io import imread_flags
from mmengine.dataset import Compose
from PIL import Image

from dinor1.datasets.resized_image import two_step_pipeline
from dinor1.registry import TRANSFORMS
from dinor1.utils.errors import InputError

BOX = [100.0, 50.0, 300.0, 250.0]
LOAD_BOXES = dict(type='LoadAnnotations', with_bbox=True)


def scene(height: int, width: int) -> np.ndarray:
    """An image of smooth colours, with white pixels in the box."""
    rng = np.random.default_rng(height + width)
    image = cv2.resize(rng.integers(0, 200, (6, 8, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    left, top, right, bottom = map(int, BOX)
    image[top:bottom, left:right] = 255
    return image


def jpeg(image: np.ndarray, orientation: int = 1) -> bytes:
    """A JPEG file with an EXIF orientation."""
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(image[..., ::-1]).save(stream, 'JPEG', quality=95, exif=exif)
    return stream.getvalue()


@pytest.fixture
def record(tmp_path):
    """``record(name, content)`` writes an image file and returns its record, as in a data set."""

    def make(name: str, content: bytes) -> dict:
        (tmp_path / name).write_bytes(content)
        return dict(img_path=str(tmp_path / name), instances=[dict(bbox=BOX, bbox_label=3, ignore_flag=0)])

    return make


def run(record: dict, *steps: dict) -> dict:
    return Compose([TRANSFORMS.build(dict(step)) for step in steps])(dict(record))


def both(record: dict, **options) -> tuple[dict, dict]:
    """The training pipeline with LoadResizedImage, and with MMDetection's two transforms."""
    one = dict(options, type='LoadResizedImage')
    load, resize = two_step_pipeline(one)
    return run(record, LOAD_BOXES, one), run(record, load, LOAD_BOXES, resize)


def decode_whole(content: bytes, flag: int = cv2.IMREAD_COLOR) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), flag)


def assert_close(found: dict, expected: dict, full: np.ndarray) -> None:
    """Check that the reduced image approximates the average over each pixel as well as the resized one."""
    average = cv2.resize(full, found['img'].shape[1::-1], interpolation=cv2.INTER_AREA).astype(float)
    error, allowed = (np.abs(one['img'] - average).mean() for one in (found, expected))
    assert error <= max(allowed, 0.9)


# Sizes and boxes are exact, pixels are close

SCALES = [(150, 100), (149, 77), (320, 320), (300, 201), (75, 75), (1200, 900), (40, 33)]


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('keep_ratio', [True, False])
@pytest.mark.parametrize('size', [(403, 601), (601, 403), (400, 600), (257, 513)])
def test_size_boxes_and_scale_equal_two_transforms(record, scale, keep_ratio, size):
    found, expected = both(record('a.jpg', jpeg(scene(*size))), scale=scale, keep_ratio=keep_ratio)
    assert found['img'].shape == expected['img'].shape
    for key in ('img_shape', 'ori_shape', 'scale', 'scale_factor', 'keep_ratio'):
        assert found[key] == expected[key], key
    assert found['gt_bboxes'].tensor.equal(expected['gt_bboxes'].tensor)
    assert found['gt_bboxes_labels'].tolist() == [3]
    assert (found['homography_matrix'] == expected['homography_matrix']).all()
    assert_close(found, expected, decode_whole(jpeg(scene(*size))))


@pytest.mark.parametrize('size', [(403, 601), (400, 600), (609, 415)])
@pytest.mark.parametrize('axis', [0, 1])
def test_reduced_pixels_are_not_shifted(record, size, axis):
    """On a ramp, a shift by one pixel changes values by 3, including the last row and column."""
    ramp = np.linspace(0, 3 * size[axis] / 8, size[axis]).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    content = jpeg(np.broadcast_to(ramp, (*size, 3)).round().astype(np.uint8))
    scale = (-(-size[1] // 8), -(-size[0] // 8))
    found, expected = both(record('a.jpg', content), scale=scale)
    assert np.abs(found['img'].astype(float) - expected['img']).max() <= 1


@pytest.mark.parametrize('options', [dict(scale=(150, 100), keep_ratio=True), dict(scale=(90, 90)), dict(scale=None)])
@pytest.mark.parametrize('load', [{}, dict(to_float32=True), dict(imdecode_backend='pillow')])
def test_pixels_without_reduction_equal_two_transforms(record, options, load):
    found, expected = both(record('a.jpg', jpeg(scene(403, 601))), reduce=False, load=load, **options)
    assert found['img'].dtype == expected['img'].dtype
    assert (found['img'] == expected['img']).all()
    assert found['scale_factor'] == expected['scale_factor']


@pytest.mark.parametrize('suffix', ['.png', '.bmp', '.webp'])
def test_other_formats_are_decoded_at_full_size(record, suffix):
    content = cv2.imencode(suffix, scene(403, 601))[1].tobytes()
    found, expected = both(record(f'a{suffix}', content), scale=(150, 100), keep_ratio=True)
    assert (found['img'] == expected['img']).all()


@pytest.mark.parametrize('scale', [(150, 100), (76, 40)])
def test_boxes_match_white_pixels(record, scale):
    found = run(record('a.jpg', jpeg(scene(403, 601))), LOAD_BOXES, dict(type='LoadResizedImage', scale=scale))
    rows, columns = np.nonzero(found['img'].min(axis=-1) > 225)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(found['gt_bboxes'].tensor.numpy()[0] - seen).max() < 1.5


def test_boxes_loaded_after_resizing_stay_in_file_pixels(record):
    """Test pipelines load boxes after resizing; predictions are divided by scale_factor."""
    one = dict(type='LoadResizedImage', scale=(150, 150), keep_ratio=True)
    found = run(record('a.jpg', jpeg(scene(403, 601))), one, LOAD_BOXES, dict(type='PackDetInputs'))
    sample = found['data_samples']
    assert sample.gt_instances.bboxes.tensor.tolist() == [BOX]
    assert sample.ori_shape == (403, 601)
    assert sample.scale_factor == (150 / 601, 101 / 403)
    rows, columns = np.nonzero(found['inputs'].numpy().min(axis=0) > 225)
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(seen / np.tile(sample.scale_factor, 2) - BOX).max() < 601 / 150


# EXIF orientation and colour


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('color_type', ['color', 'color_ignore_orientation', 'grayscale', 'unchanged'])
@pytest.mark.parametrize('size', [(403, 601), (301, 300), (400, 600)])
def test_orientation_and_colour_equal_mmcv(record, orientation, color_type, size):
    content = jpeg(scene(*size), orientation)
    image, load = record('a.jpg', content), dict(color_type=color_type)
    found, expected = both(image, scale=(90, 120), load=load, keep_ratio=color_type == 'color')
    assert found['ori_shape'] == expected['ori_shape']
    assert found['img'].shape == expected['img'].shape
    # In a wrongly rotated image, the white box would be at another position.
    assert_close(found, expected, decode_whole(content, imread_flags[color_type]))


def test_grey_file_gives_three_channels(record):
    content = cv2.imencode('.jpg', scene(403, 601)[..., 0])[1].tobytes()
    found = run(record('a.jpg', content), dict(type='LoadResizedImage', scale=(60, 40)))
    assert found['img'].shape == (40, 60, 3)
    assert (found['img'][..., :1] == found['img']).all()


# Random sizes, and files that are not local


def test_random_choice_resize_accepts_load_resized_image(record):
    image = record('a.jpg', jpeg(scene(403, 601)))
    scales = [(150, 100), (80, 80)]
    options = dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)
    seen = set()
    for _ in range(12):
        found = run(image, LOAD_BOXES, dict(options, resize_type='LoadResizedImage'))
        expected = mmcv.rescale_size((601, 403), found['scale'])
        assert found['img'].shape == (*expected[::-1], 3)
        assert found['ori_shape'] == (403, 601)
        seen.add(found['scale'])
    assert seen == set(scales)


@pytest.mark.parametrize(
    'load', [dict(backend_args=dict(backend='local')), dict(file_client_args=dict(backend='disk'))]
)
def test_files_are_read_through_file_backend(record, load):
    image = record('a.jpg', jpeg(scene(403, 601)))
    plain = run(image, dict(type='LoadResizedImage', scale=(60, 40)))
    found = run(image, dict(type='LoadResizedImage', scale=(60, 40), load=load))
    assert (found['img'] == plain['img']).all()


def test_missing_file_is_an_error_of_file_backend(record):
    image = dict(record('a.jpg', b''), img_path='nowhere.jpg')
    with pytest.raises(FileNotFoundError):
        run(image, dict(type='LoadResizedImage', scale=(60, 40)))


# Bad input


@pytest.mark.parametrize('scale', [(0, 40), (40, -1), -3])
def test_scale_must_be_positive(scale):
    with pytest.raises(InputError, match='LoadResizedImage: scale must be positive, got'):
        TRANSFORMS.build(dict(type='LoadResizedImage', scale=scale))


def test_scale_zero_is_rejected_when_used(record):
    """RandomChoiceResize builds its transform with scale 0."""
    with pytest.raises(InputError, match=r'scale must be positive, got \(0, 0\)'):
        run(record('a.jpg', jpeg(scene(403, 601))), dict(type='LoadResizedImage', scale=0))


@pytest.mark.parametrize(
    'content', [b'', b'no image', jpeg(scene(403, 601))[:300], b'\xff\xd8\xff\xe1\x00\x10Exif\0\0xx']
)
def test_unreadable_image_error_names_the_file(record, content):
    image = record('a.jpg', content)
    with pytest.raises(InputError, match=r'a\.jpg: not an image that can be read; restore the file'):
        run(image, dict(type='LoadResizedImage', scale=(60, 40)))
    assert run(image, dict(type='LoadResizedImage', scale=(60, 40), load=dict(ignore_empty=True))) is None


@pytest.mark.parametrize(
    ('load', 'name'),
    [
        (dict(to_float32=True), 'to_float32'),
        (dict(ignore_empty=True), 'ignore_empty'),
        (dict(backend_args=dict(backend='local')), 'backend_args'),
        (dict(color_type='unchanged'), "color_type='unchanged'"),
    ],
)
def test_uncacheable_load_arguments_are_rejected(tmp_path, load, name):
    with pytest.raises(InputError, match=f'load has {name}, which cannot be cached'):
        TRANSFORMS.build(dict(type='LoadResizedImage', load=load, cache=dict(folder=tmp_path)))
