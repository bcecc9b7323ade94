"""The reader of image files: formats, and messages about files that cannot be read."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from dinor1.utils.errors import InputError
from dinor1.utils.image_file import bgr_from_pil, can_decode, check_depth, check_image, image_suffixes, read_image
from tests.model_files import random_image

IMAGE = random_image(24, 32)
# Formats that Pillow writes without loss.
LOSSLESS = ['.apng', '.bmp', '.dib', '.im', '.pcx', '.png', '.ppm', '.qoi', '.sgi', '.tga', '.tif', '.webp']
LOSSY = ['.jfif', '.jpe', '.jpeg', '.jpg', '.jp2']


def write(path, image=IMAGE):
    """Write a BGR image by Pillow."""
    options = dict(lossless=True) if path.suffix == '.webp' else {}
    Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(path, **options)
    return path


@pytest.mark.parametrize('suffix', LOSSLESS + LOSSY)
def test_read_image_reads_every_format(tmp_path, suffix):
    path = write(tmp_path / f'a{suffix}')
    check_image(path)
    error = np.abs(read_image(path).astype(int) - IMAGE)
    assert error.mean() <= (8 if suffix in LOSSY else 0)
    assert suffix in image_suffixes()


def test_read_image_reads_gif_and_palettes(tmp_path):
    grey = np.repeat(IMAGE[..., :1], 3, axis=2)
    for name in ('a.gif', 'palette.png'):
        Image.fromarray(grey[..., 0]).convert('P').save(tmp_path / name)
        assert (read_image(tmp_path / name) == grey).all()


def test_read_image_does_not_depend_on_the_suffix(tmp_path):
    write(tmp_path / 'a.tga').rename(tmp_path / 'a.jpg')
    assert (read_image(tmp_path / 'a.jpg') == IMAGE).all()


def test_read_image_applies_the_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees clockwise
    Image.fromarray(IMAGE).save(tmp_path / 'turned.png', exif=exif)
    assert (read_image(tmp_path / 'turned.png') == np.rot90(IMAGE, -1)[..., ::-1]).all()


def with_mode(mode, image):
    """A BGR image in a mode of Pillow, by way of the modes that Pillow needs; in 16 bits, its first channel."""
    if mode.startswith('I'):
        pixels = image[..., 0].astype(np.int32) * 257
        if mode == 'I':
            return Image.fromarray(pixels)
        order = '>' if mode == 'I;16B' else '<'
        return Image.frombytes(mode, pixels.shape[::-1], pixels.astype(f'{order}u2').tobytes())
    result = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    between = {'LA': ['L'], 'La': ['L', 'LA'], 'P': ['L'], 'PA': ['L', 'P'], 'RGBa': ['RGBA']}
    for step in [*between.get(mode, []), mode]:
        result = result.convert(step)
    return result


@pytest.mark.parametrize(
    ('mode', 'suffixes'),
    [
        ('1', ['.png', '.tif', '.bmp', '.tga']),
        ('L', ['.png', '.tif', '.bmp', '.tga', '.ppm']),
        ('LA', ['.png', '.tif', '.tga']),
        ('P', ['.png', '.tif', '.bmp', '.tga']),
        ('PA', ['.tif']),
        ('RGB', ['.png', '.tif', '.bmp', '.tga', '.ppm', '.webp']),
        ('RGBA', ['.png', '.tif', '.tga', '.webp']),
        ('RGBX', ['.tif']),
        ('CMYK', ['.tif', '.jpg']),
        ('YCbCr', ['.tif']),
        ('I;16', ['.png', '.tif', '.ppm']),
        ('I;16B', ['.png', '.tif']),
        ('I', ['.tif', '.ppm']),
    ],
)
def test_path_array_and_pil_image_of_every_mode_are_equal(tmp_path, mode, suffixes, logged_warnings):
    # All modes can show a grey image; mode 1 only black and white.
    grey = np.repeat(IMAGE[..., :1], 3, axis=2)
    grey = np.where(grey > 127, np.uint8(255), np.uint8(0)) if mode == '1' else grey
    image = with_mode(mode, grey)
    assert image.mode == mode
    array = bgr_from_pil(image, 'a')
    np.testing.assert_allclose(array.astype(int), grey, rtol=0, atol=1)
    for suffix in suffixes:
        path = tmp_path / f'a{suffix}'
        image.save(path, **(dict(lossless=True) if suffix == '.webp' else {}))
        with Image.open(path) as opened:
            own = bgr_from_pil(opened, 'a')
        read = read_image(path)
        # The conversions of CMYK and YCbCr round differently; JPEG loses details.
        np.testing.assert_allclose(read.astype(int), own, rtol=0, atol=1)
        if suffix != '.jpg':
            np.testing.assert_allclose(read.astype(int), array, rtol=0, atol=1)
    assert logged_warnings() == []


@pytest.mark.parametrize('mode', ['La', 'RGBa', 'LAB', 'HSV'])
def test_bgr_from_pil_of_modes_without_a_file_format(mode):
    """The conversion from RGB to these modes and back loses a few levels."""
    colour = Image.fromarray(np.ascontiguousarray(IMAGE[..., ::-1]))
    if mode == 'LAB':
        image = ImageCms.profileToProfile(
            colour, ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB'), outputMode='LAB'
        )
    else:
        image = with_mode(mode, IMAGE)
    expected = bgr_from_pil(colour.convert('L') if mode == 'La' else colour, 'a')
    assert np.abs(bgr_from_pil(image, 'a').astype(int) - expected).mean() < 4


@pytest.mark.parametrize(('bits', 'warned'), [(8, True), (10, True), (12, True), (14, True), (15, False), (16, False)])
def test_unused_range_of_16_bits_gives_a_warning(tmp_path, logged_warnings, bits, warned):
    """A 12-bit image in a 16-bit file is nearly black."""
    pixels = np.linspace(0, 2**bits - 1, 24 * 32).astype(np.uint16).reshape(24, 32)
    colour, expected = np.stack([pixels] * 3, axis=2), []
    for name, values in (('a.png', pixels), ('a.tif', pixels), ('b.png', colour), ('b.tif', colour)):
        path = tmp_path / name
        cv2.imwrite(str(path), values)
        check_depth(path)
        # OpenCV rounds the 16-bit colours of TIFF files.
        np.testing.assert_allclose(read_image(path).astype(int), colour >> 8, rtol=0, atol=1)
        expected.append(f'{path}: ')
    for mode, values in (('I;16', pixels), ('I', pixels.astype(np.int32))):
        image = Image.fromarray(values)
        assert image.mode == mode
        assert (bgr_from_pil(image, f'{mode} of {bits}') == colour >> 8).all()
        expected.append(f'{mode} of {bits}: ')
    logged = logged_warnings()
    assert len(logged) == (len(expected) if warned else 0)
    for message, start in zip(logged, expected, strict=warned):
        assert message.startswith(f'{start}a 16-bit image with no pixel above {2**bits - 1}, which is nearly black')
    # A dark image of 8 bits, and a black one of 16 bits, use their range.
    cv2.imwrite(str(tmp_path / 'dark.png'), np.full((9, 9, 3), 5, np.uint8))
    cv2.imwrite(str(tmp_path / 'black.png'), np.zeros((9, 9), np.uint16))
    assert read_image(tmp_path / 'dark.png').max() == 5
    assert read_image(tmp_path / 'black.png').max() == 0
    assert len(logged_warnings()) == len(logged)


@pytest.mark.parametrize('suffix', ['.tif', '.pfm'])
def test_read_image_refuses_floating_point_pixels(tmp_path, suffix):
    """Their range is unknown; OpenCV would take pixels in 0..1 as black."""
    path = tmp_path / f'a{suffix}'
    assert cv2.imwrite(str(path), IMAGE[..., 0].astype(np.float32) / 255)
    for read in (read_image, check_image, check_depth):
        with pytest.raises(InputError, match=f'a{suffix}: .*floating-point numbers; convert it to 8 bits'):
            read(path)


def test_can_decode_is_false_for_files_that_only_pillow_reads(tmp_path):
    assert can_decode(write(tmp_path / 'a.png'))
    assert not can_decode(write(tmp_path / 'a.tga'))
    assert not can_decode(tmp_path / 'absent.png')


@pytest.mark.parametrize('suffix', [*LOSSLESS, *LOSSY, '.gif'])
@pytest.mark.parametrize('part', [0.3, 0.8])
def test_read_image_rejects_truncated_files(tmp_path, suffix, part):
    path = write(tmp_path / f'a{suffix}')
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    for read in (read_image, check_image):
        with pytest.raises(InputError, match='(truncated or damaged|not an).* image.*; restore the file') as error:
            read(path)
        assert str(error.value).startswith(f'{path}: ')
        assert '\n' not in str(error.value)


def video(path):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, (32, 24))
    for _ in range(3):
        writer.write(IMAGE)
    writer.release()
    return path.read_bytes()


def eps():
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, 'EPS')
    return buffer.getvalue()


MP4 = b'\0\0\0\x18ftypmp42' + bytes(40)
WEBM = b'\x1a\x45\xdf\xa3' + bytes(40)
AVI = b'RIFF\0\0\0\0AVI LIST' + bytes(40)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.jpg', b'', 'an empty file'),
        ('a.jpg', b'text', 'not an image that can be read'),
        ('a.mp4', MP4, 'a video, not an image; give it to `dinor1 detect`, or extract its frames'),
        ('a.mp4', b'damaged', 'a video, not an image; give it to `dinor1 detect`, or extract its frames'),
        ('a.MOV', b'damaged', 'a video, not an image; give it to `dinor1 detect`, or extract its frames'),
        ('a', MP4, 'a video, not an image; give it to `dinor1 detect`, or extract its frames'),
        ('a', WEBM, 'a video, not an image; give it to `dinor1 detect`, or extract its frames'),
        ('a', AVI, 'a video, not an image; give it to `dinor1 detect`, or extract its frames'),
        ('a.heic', b'\0\0\0\x18ftypheic' + bytes(40), 'a HEIF image'),
        ('a.eps', eps(), 'a file of format EPS'),
    ],
)
def test_read_image_says_what_a_file_is_instead(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_image, check_image):
        with pytest.raises(InputError, match=message) as error:
            read(path)
        assert str(error.value).startswith(f'{path}: ')
        assert '\n' not in str(error.value)


def test_read_image_of_a_video_gives_the_command(tmp_path):
    path = tmp_path / 'my film.avi'
    if not video(path):
        pytest.skip('OpenCV writes no videos here')
    with pytest.raises(InputError) as error:
        read_image(path)
    assert f"ffmpeg -i '{path}' frames/%06d.png" in str(error.value)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('absent.png', 'no such image'),
        ('', 'cannot be read'),
        ('a\ud800.png', 'cannot be read'),
        ('\0', 'cannot be read'),
    ],
)
def test_read_image_rejects_paths_that_are_not_files(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        read_image(f'{tmp_path}/{name}')


def test_read_image_reads_names_that_are_not_utf8(tmp_path):
    path = f'{tmp_path}/a\udcff.png'
    write(tmp_path / 'a.png').rename(path)
    assert (read_image(path) == IMAGE).all()


def test_image_suffixes_leave_out_videos_and_documents():
    assert not image_suffixes() & {'.mpg', '.mpeg', '.eps', '.ps', '.pdf', '.h5', '.txt', '.json', ''}
    assert image_suffixes() >= {'.heic', '.exr', '.hdr', '.avif', '.gif', '.psd'}
