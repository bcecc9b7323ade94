"""Reduced decoding: sizes from headers, the choice of a reduction, and positions of reduced pixels."""

import io

import cv2
import numpy as np
import pytest
from mmcv.image.io import imread_flags
from PIL import Image

from dinor1.datasets.reduced_decoding import decode, read_header, resize_reduced
from dinor1.utils.errors import InputError


def encoded(height: int, width: int, suffix: str = '.jpg') -> bytes:
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.webp'])
def test_header_size_is_that_of_the_decoded_image(tmp_path, suffix):
    content = encoded(30, 50, suffix)
    (tmp_path / 'a').write_bytes(content)
    for image in (content, tmp_path / 'a', str(tmp_path / 'a')):
        assert read_header(image) == (30, 50, suffix == '.jpg', False)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('color_type', ['color', 'color_ignore_orientation', 'unchanged'])
def test_header_follows_exif_rotation_of_opencv(orientation, color_type):
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.new('RGB', (56, 40)).save(stream, 'JPEG', exif=exif)
    header = read_header(stream.getvalue(), color_type)
    decoded = cv2.imdecode(np.frombuffer(stream.getvalue(), np.uint8), imread_flags[color_type])
    assert (header.height, header.width) == decoded.shape[:2]
    assert header.turned == (orientation > 1 and color_type == 'color')
    assert decode(stream.getvalue(), lambda full: (1, 1), color_type)[2] == (1 if color_type == 'unchanged' else 8)


def test_decode_reduces_rotated_images_by_divisors_only():
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new('RGB', (60, 36)).save(stream, 'JPEG', exif=exif)
    image, full, factor = decode(stream.getvalue(), lambda full: (1, 1))
    assert (image.shape, full, factor) == ((15, 9, 3), (60, 36), 4)


def test_header_treats_mpo_files_as_jpeg():
    stream = io.BytesIO()
    Image.new('RGB', (50, 30)).save(stream, 'MPO', save_all=True, append_images=[Image.new('RGB', (50, 30))])
    assert read_header(stream.getvalue()) == (30, 50, True, False)
    assert decode(stream.getvalue(), lambda full: (15, 25))[2] == 2


@pytest.mark.parametrize('content', [b'', b'no image', encoded(30, 50)[:100], b'\xff\xd8\xff\xe1\x00\x10Exif\0\0xx'])
def test_header_of_a_non_image_is_none(content):
    assert read_header(content) is None
    with pytest.raises(InputError, match='not an image that can be read; restore the file'):
        decode(content, lambda full: (1, 1))


@pytest.mark.parametrize(
    ('target', 'shape', 'factor'),
    [
        ((403, 601), (403, 601), 1),
        ((500, 700), (403, 601), 1),
        ((202, 302), (403, 601), 1),
        ((203, 301), (403, 601), 1),
        ((202, 301), (202, 301), 2),
        ((101, 151), (101, 151), 4),
        ((101, 152), (202, 301), 2),
        ((51, 76), (51, 76), 8),
        ((1, 1), (51, 76), 8),
    ],
)
def test_decode_chooses_largest_sufficient_reduction(target, shape, factor):
    seen = []
    image, full, reduction = decode(encoded(403, 601), lambda size: seen.append(size) or target)
    assert (image.shape, full, reduction) == ((*shape, 3), (403, 601), factor)
    assert seen == [(403, 601)]


@pytest.mark.parametrize('options', [dict(reduce=False), dict(backend='pillow'), dict(color_type='unchanged')])
def test_decode_without_reduction_is_full_size(options):
    image, full, factor = decode(encoded(403, 601), lambda size: (9, 9), **options)
    assert (image.shape, full, factor) == ((403, 601, 3), (403, 601), 1)


def test_decode_averages_blocks_of_pixels():
    image, _, factor = decode(content := encoded(64, 96), lambda size: (8, 12))
    full = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    blocks = full.reshape(8, 8, 12, 8, 3).mean(axis=(1, 3))
    assert factor == 8
    # Compare brightness, because the decoder clips single channels.
    assert np.abs(image.mean(-1) - blocks.mean(-1)).max() < 8


@pytest.mark.parametrize('factor', [2, 4, 8])
@pytest.mark.parametrize('width', [400, 401, 403, 407])
def test_resize_reduced_keeps_positions_of_a_ramp(factor, width):
    """The value of every pixel is its position in the full image; OpenCV rounds positions to 1/32 of a pixel."""
    reduced = np.arange(-(-width // factor), dtype=np.float32) * factor + factor / 2
    image = np.repeat(np.broadcast_to(reduced, (9, len(reduced)))[..., None], 3, axis=-1).astype(np.float32)
    new = width // factor - 3
    resized = resize_reduced(image, (9 * factor, width), factor, (9, new))
    expected = (np.arange(new) + 0.5) * width / new
    # Beyond the centre of the last pixel, its value is repeated.
    expected = expected.clip(reduced[0], reduced[-1])
    assert resized.shape == (9, new, 3)
    assert np.abs(resized - expected[:, None]).max() <= factor / 32
