"""Access to the image files of a folder: which files may be read, their sizes, and contents for the browser."""

import functools
import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from dinor1.annotate.records import UnknownIdError
from dinor1.inference import list_images
from dinor1.utils.errors import InputError
from dinor1.utils.image_file import read_image

# Limits on the size of a file, and on the memory for decoding it.
MAX_BYTES, MAX_PIXELS = 256 * 2**20, 100_000_000
# Formats that every browser shows, by Pillow's names.
_MEDIA_TYPES = {
    'JPEG': 'image/jpeg',
    'PNG': 'image/png',
    'WEBP': 'image/webp',
    'GIF': 'image/gif',
    'BMP': 'image/bmp',
}
_ORIENTATION = 0x0112
_THUMBNAIL, _CROP = (144, 96), (160, 120)


class ImageFiles:
    """The images of a folder; their ids do not depend on the order of the files.

    Only files within the folder are read: a link to a file elsewhere is rejected. The size is read from the header and
    checked before the image is decoded.

    Args:
        folder: The folder; sub-folders are not searched.

    Raises:
        InputError: there is no such folder, or it has no image.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f'{folder}: no such folder; give a folder of images')
        self.folder = folder.resolve()
        self._names = {image_id(Path(str(path)).name): Path(str(path)).name for path in list_images(folder)}
        self._thumbnails = functools.lru_cache(maxsize=4096)(self._make_thumbnail)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, image: object) -> bool:
        return image in self._names

    def name(self, image: str) -> str:
        """File name of an image.

        Raises:
            UnknownIdError: no image has this id.
        """
        try:
            return self._names[image]
        except KeyError:
            raise UnknownIdError(image) from None

    def path(self, image: str) -> Path:
        """File of an image, with all links followed.

        Raises:
            UnknownIdError: no image has this id.
            InputError: the file is missing, too large, or outside of the folder.
        """
        # Follow all links.
        name = self.name(image)
        try:
            path = (self.folder / name).resolve(strict=True)
            size = path.stat().st_size
        except (OSError, RuntimeError):
            raise InputError(f'{name}: the file does not exist any more; restore it') from None
        # Check that the file is inside the folder, and not too large.
        if not path.is_relative_to(self.folder):
            raise InputError(f'{name}: a link to a file outside of the folder; copy the file into the folder')
        if not path.is_file():
            raise InputError(f'{name}: not a regular file; remove it')
        if size > MAX_BYTES:
            raise InputError(f'{name}: {size >> 20} MiB, but the limit is {MAX_BYTES >> 20} MiB; reduce the file size')
        return path

    def size(self, image: str) -> tuple[int, int]:
        """Width and height of an image in pixels, after the rotation of its EXIF orientation.

        Raises:
            UnknownIdError: no image has this id.
            InputError: the image cannot be read, or has too many pixels.
        """
        with self._open(image) as opened:
            width, height = opened.size
            return (height, width) if _orientation(opened) >= 5 else (width, height)

    def content(self, image: str) -> tuple[bytes, str]:
        """Content of an image for the browser, and its media type; the pixels are those that the detector sees.

        The content is the file itself if every browser shows the same pixels. Otherwise it is a PNG file.

        Raises:
            UnknownIdError: no image has this id.
            InputError: the image cannot be read.
        """
        with self._open(image) as opened:
            as_it_is = opened.format in _MEDIA_TYPES and _orientation(opened) == 1 and opened.mode in ('RGB', 'L', 'P')
            kind = opened.format
        # A browser shows the first part of a truncated file without an error. Decoding it here raises the error.
        pixels = self._read(image)
        if as_it_is and kind is not None:
            return self.path(image).read_bytes(), _MEDIA_TYPES[kind]
        return cv2.imencode('.png', pixels)[1].tobytes(), 'image/png'

    def thumbnail(self, image: str) -> bytes:
        """A small JPEG of an image, which is cached until the file changes.

        Raises:
            UnknownIdError: no image has this id.
            InputError: the image cannot be read.
        """
        return self._thumbnails(image, self.version(image))

    def version(self, image: str) -> int:
        """A number that changes when the file changes; 0: the file cannot be read.

        Raises:
            UnknownIdError: no image has this id.
        """
        name = self.name(image)
        try:
            return os.stat(self.folder / name).st_mtime_ns
        except OSError:
            return 0

    def crop(self, image: str, bbox: tuple[float, float, float, float]) -> bytes:
        """A small JPEG of the part of an image inside a box.

        Args:
            image: Id of the image.
            bbox: x1, y1, x2, y2 in pixels.

        Raises:
            UnknownIdError: no image has this id.
            InputError: the image cannot be read, or the box is outside of it.
        """
        # Round the box outward to whole pixels, and clip it to the image.
        pixels = self._read(image)
        height, width = pixels.shape[:2]
        x1, y1 = max(0, int(bbox[0])), max(0, int(bbox[1]))
        x2, y2 = min(width, int(np.ceil(bbox[2]))), min(height, int(np.ceil(bbox[3])))
        # The file may have been replaced by a smaller image.
        if x2 <= x1 or y2 <= y1:
            raise InputError(f'{self.name(image)}: the exemplar is outside of the replaced image; remove it')
        # Cut the box out; the pixels are BGR, and Pillow expects RGB.
        return _jpeg(Image.fromarray(pixels[y1:y2, x1:x2, ::-1]), _CROP)

    def _make_thumbnail(self, image: str, version: int) -> bytes:
        with self._open(image) as opened:
            # A JPEG file is decoded at a fraction of its size.
            opened.draft('RGB', (2 * _THUMBNAIL[0], 2 * _THUMBNAIL[1]))
            try:
                if opened.mode not in ('RGB', 'L', 'P', 'RGBA', 'CMYK'):
                    return _jpeg(Image.fromarray(self._read(image)[..., ::-1]), _THUMBNAIL)
                return _jpeg(ImageOps.exif_transpose(opened), _THUMBNAIL)
            except (OSError, SyntaxError, ValueError, EOFError):
                raise InputError(f'{self.name(image)}: a truncated or damaged image; restore the file') from None

    def _read(self, image: str) -> np.ndarray:
        """Read the pixels (H, W, 3) BGR that the detector sees; the size of the image is checked first."""
        self.size(image)
        return read_image(self.path(image))

    def _open(self, image: str) -> Image.Image:
        """Read the header of an image.

        Raises:
            InputError: the header cannot be read, or the image has too many pixels.
        """
        path, name = self.path(image), self.name(image)
        # Read the header without Pillow's warning about large images, whose size is checked below.
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', Image.DecompressionBombWarning)
                opened = Image.open(io.BytesIO(path.read_bytes()))
        except Image.DecompressionBombError:
            raise InputError(_too_large(name)) from None
        except Exception:  # decoders raise various errors on damaged files
            raise InputError(f'{name}: not an image that Pillow can read; restore it, or convert it to PNG') from None
        # Reject an image that is too large to decode.
        if opened.width * opened.height > MAX_PIXELS:
            raise InputError(_too_large(name))
        return opened


def image_id(name: str) -> str:
    """Id of an image: a digest of its file name, which needs no escaping in addresses and file names."""
    return hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:20]


def _too_large(name: str) -> str:
    return f'{name}: more than {MAX_PIXELS // 1_000_000} million pixels; cut the image into parts'


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block
        return 1
    return value if value in range(1, 9) else 1


def _jpeg(image: Image.Image, size: tuple[int, int]) -> bytes:
    small = image.convert('RGB')
    small.thumbnail(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, 'JPEG', quality=80)
    return buffer.getvalue()
