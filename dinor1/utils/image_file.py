"""One reader of image files: every format that OpenCV or Pillow decodes."""

import functools
import io
import logging
import os
import shlex
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from dinor1.utils.errors import InputError

# A 16-bit image whose pixels become smaller than this in 8 bits uses less than a quarter of its range.
_DARK = 64
# Formats that Pillow recognises and does not decode by itself: containers of data, videos and documents.
_NOT_DECODED = {'BUFR', 'EPS', 'GRIB', 'HDF5', 'IPTC', 'MPEG', 'WMF'}
_OPENCV_SUFFIXES = {'.avif', '.exr', '.hdr', '.jp2', '.pfm', '.pic', '.pxm', '.ras', '.sr'}
# Photographs of telephones: without a plugin neither library decodes them, but they must not pass as other files.
_HEIF_SUFFIXES = {'.heic', '.heif'}
_HEIF_BRANDS = (b'heic', b'heix', b'hevc', b'heim', b'heis', b'mif1', b'msf1')
VIDEO_SUFFIXES = frozenset(
    ('.3gp', '.asf', '.avi', '.flv', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts', '.ogv', '.vob')
    + ('.webm', '.wmv')
)
# First bytes of PFM files, whose floating-point pixels OpenCV takes as 0 to 255.
_FLOAT_SIGNATURES = (b'PF', b'Pf')
# First bytes of Matroska and WebM, Flash, Windows Media, and MPEG files.
_VIDEO_SIGNATURES = (b'\x1a\x45\xdf\xa3', b'FLV\x01', b'\x30\x26\xb2\x75\x8e\x66\xcf\x11', b'\x00\x00\x01\xba')


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes, in lower case and with the dot, of the image formats that OpenCV or Pillow decodes, and of HEIF."""
    pillow = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    skipped = {suffix for suffix, kind in Image.registered_extensions().items() if kind in _NOT_DECODED}
    return frozenset(pillow - skipped | _OPENCV_SUFFIXES | _HEIF_SUFFIXES)


def read_image(path: str | os.PathLike, backend_args: dict | None = None) -> np.ndarray:
    """Read an image file: by OpenCV, as in training, or else by Pillow.

    Args:
        path: The file. Of an animation or of several pages, the first image is read.
        backend_args: Arguments of MMEngine's file client.

    Returns:
        BGR array (H, W, 3) of uint8, rotated by the EXIF entry. Of 16 bits, the upper 8 are kept, with a warning if
        these are nearly unused.

    Raises:
        InputError: the file is missing, is a video, has floating-point pixels, or cannot be decoded.
    """
    # Decode the file.
    content = _content(path, backend_args)
    image = _by_opencv(content, cv2.IMREAD_COLOR)
    if image is not None and image.max() <= _DARK:
        # OpenCV keeps the upper 8 of 16 bits, or rounds to 8 bits.
        pixels = _by_opencv(content, cv2.IMREAD_UNCHANGED)
        if pixels is not None and pixels.dtype == np.uint16:
            _warn_of_unused_range(int(pixels.max()), str(path))
    if image is None:
        image = _by_pillow(content, str(path))
    if image is None:
        raise InputError(f'{path}: {_why_not_decoded(path, content)}')
    return image


def check_image(path: str | os.PathLike, backend_args: dict | None = None) -> None:
    """Check that :func:`read_image` can read a file; large JPEG files are decoded at an eighth of their size.

    Raises:
        InputError: see :func:`read_image`.
    """
    if _by_opencv(_content(path, backend_args), cv2.IMREAD_REDUCED_COLOR_8) is None:
        read_image(path, backend_args)


def can_decode(path: str | os.PathLike, backend_args: dict | None = None) -> bool:
    """Whether MMCV's loading transform, which uses OpenCV, can decode a file.

    The transform decodes the content of a file in memory. OpenCV rejects a truncated JPEG file in memory, but reads it
    from its path, with a grey rest.

    Args:
        path: The file.
        backend_args: Arguments of MMEngine's file client.
    """
    try:
        return _by_opencv(_content(path, backend_args), cv2.IMREAD_COLOR) is not None
    except InputError:
        return False


def bgr_from_pil(image: Image.Image, where: str) -> np.ndarray:
    """Convert a PIL image as OpenCV reads its file.

    Args:
        image: Image of any mode; 16 bits per pixel are reduced to the upper 8, with a warning if these are nearly
            unused.
        where: Name of the image, for error messages.

    Returns:
        BGR array (H, W, 3) of uint8, rotated by the EXIF entry.

    Raises:
        InputError: its pixels are floating-point numbers, whose range is unknown, or integers outside of 16 bits.
    """
    # Rotate by the EXIF entry; boxes refer to the rotated image.
    image = ImageOps.exif_transpose(image)
    # Convert to 8 bits. PIL would clip 16 bits at 255.
    if image.mode == 'F':
        raise InputError(f'{where}: a PIL image of floating-point numbers; convert it to 8 bits first')
    if image.mode.startswith('I'):
        pixels = np.asarray(image).astype(np.int64)
        if pixels.size and not 0 <= pixels.min() <= pixels.max() < 2**16:
            raise InputError(f'{where}: a PIL image with pixels outside of 16 bits; convert it to 8 bits first')
        _warn_of_unused_range(int(pixels.max(initial=0)), where)
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
    # Convert to BGR; Pillow has no conversion of grey with premultiplied alpha to RGB.
    image = image.convert('LA') if image.mode == 'La' else image
    return np.ascontiguousarray(np.asarray(image.convert('RGB'))[..., ::-1])


def check_depth(path: str | os.PathLike) -> None:
    """Warn about a 16-bit file that is nearly black in 8 bits, or reject one with floating-point pixels.

    For the loading transforms of data sets, which reduce such files to 8 bits without a word. Only the header of other
    files is read.

    Raises:
        InputError: see :func:`read_image`.
    """
    try:
        with Image.open(path) as image:
            deep = image.mode.startswith(('I', 'F')) or ';16' in str(image.tile)
    except Exception:  # not recognised by Pillow, such as a TIFF file of 16-bit colours
        deep = True
    if deep:
        read_image(path)


@functools.lru_cache(maxsize=4096)
def _warn_of_unused_range(largest: int, where: str) -> None:
    """Warn once about a 16-bit image that is nearly black in 8 bits, such as one of 12 bits in a file of 16 bits."""
    if not 0 < largest < _DARK << 8:
        return
    from mmengine.logging import print_log  # imported here, so that the commands for annotation files start at once

    print_log(
        f'{where}: a 16-bit image with no pixel above {largest}, which is nearly black in 8 bits; scale its pixels to '
        '0..65535',
        logger='current',
        level=logging.WARNING,
    )


def _content(path: str | os.PathLike, backend_args: dict | None = None) -> bytes:
    try:
        if not backend_args:
            return Path(path).read_bytes()
        from mmengine import fileio  # imported here, so that the commands for annotation files start immediately

        content: bytes | None = fileio.get(path, backend_args=backend_args)
    except FileNotFoundError:
        raise InputError(f'{path}: no such image; check the path') from None
    except (OSError, ValueError, KeyError) as error:
        # ValueError: a null character or a lone surrogate; KeyError: not in an archive.
        raise InputError(f'{path}: cannot be read ({getattr(error, "strerror", None) or error}); check it') from None
    # The LMDB backend returns None for an unknown key.
    if content is None:
        raise InputError(f'{path}: no such image in the database; check the path, which is its key')
    return bytes(content)


def _by_opencv(content: bytes, flag: int) -> np.ndarray | None:
    if content.startswith(_FLOAT_SIGNATURES):
        return None
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error:  # an empty file
        return None


def _by_pillow(content: bytes, where: str) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return bgr_from_pil(image, where)
    except InputError:
        raise
    except Exception:  # decoders raise all kinds of errors on damaged files
        return None


def _why_not_decoded(path: str | os.PathLike, content: bytes) -> str:
    """Describe the defect of a file that neither library can decode, and its remedy."""
    if not content:
        return 'an empty file; restore it'
    if _has_video_content(content) or Path(path).suffix.lower() in VIDEO_SUFFIXES:
        return (
            'a video, not an image; give it to `dinor1 detect`, or extract its frames: '
            f'mkdir frames && ffmpeg -i {shlex.quote(str(path))} frames/%06d.png'
        )
    if content[4:8] == b'ftyp' and content[8:12] in _HEIF_BRANDS:
        return 'a HEIF image, which neither OpenCV nor Pillow reads; convert it to JPEG or PNG'
    try:
        with Image.open(io.BytesIO(content)) as image:
            kind = image.format
    except Exception:  # not recognised by Pillow
        return 'not an image that can be read; restore the file'
    if kind in _NOT_DECODED:
        return f'a file of format {kind}, which neither OpenCV nor Pillow decodes; convert it to PNG'
    return f'a truncated or damaged image (format {kind}); restore the file'


def is_video(path: str | os.PathLike) -> bool:
    """Whether a file is a video by its suffix, or by its first bytes without the suffix of an image."""
    # Decide by the suffix.
    suffix = Path(path).suffix.lower()
    if suffix in VIDEO_SUFFIXES or suffix in image_suffixes():
        return suffix in VIDEO_SUFFIXES and os.path.isfile(path)
    # Otherwise decide by the first bytes.
    try:
        with open(path, 'rb') as file:
            return _has_video_content(file.read(16))
    except (OSError, ValueError):  # ValueError: a null character or a lone surrogate
        return False


def _has_video_content(content: bytes) -> bool:
    """Whether the first bytes of a file are those of a video."""
    is_mp4 = content[4:8] == b'ftyp' and content[8:12] not in (*_HEIF_BRANDS, b'avif', b'avis')
    is_avi = content[:4] == b'RIFF' and content[8:12] == b'AVI '
    return is_mp4 or is_avi or content.startswith(_VIDEO_SIGNATURES)
