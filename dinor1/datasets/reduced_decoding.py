"""Headers of image files, and decoding of JPEG files at 1/2, 1/4 or 1/8 of their size."""

import io
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
from mmcv.image.io import imread_flags
from PIL import Image

from dinor1.utils.errors import InputError

# Factor by which a JPEG decoder can reduce an image -> bit of OpenCV's IMREAD_REDUCED_* flags.
REDUCTIONS = {8: 64, 4: 32, 2: 16}
# Values of `color_type` whose flag can be combined with a reduction.
REDUCIBLE = ('color', 'grayscale', 'color_ignore_orientation', 'grayscale_ignore_orientation')
_EXIF_ORIENTATION = 0x0112
# EXIF orientations 5 to 8 swap width and height.
_FIRST_TRANSPOSED = 5


class ImageHeader(NamedTuple):
    """Properties of the decoded image, read from the header of its file.

    Attributes:
        height: In pixels, after the EXIF rotation.
        width: In pixels, after the EXIF rotation.
        is_jpeg: Whether it is a JPEG file.
        turned: Whether decoding rotates or mirrors the image by its EXIF entry.
    """

    height: int
    width: int
    is_jpeg: bool
    turned: bool


def read_header(image: str | os.PathLike | bytes, color_type: str = 'color') -> ImageHeader | None:
    """Read the header of an image file, without decoding it.

    Args:
        image: Path or content of the file.
        color_type: As in ``LoadImageFromFile``; OpenCV rotates images by their EXIF entry, except for ``unchanged`` and
            ``*_ignore_orientation``.

    Returns:
        The header; None if Pillow cannot read it.
    """
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as header:
            width, height = header.size
            orientation = 1
            if color_type in ('color', 'grayscale'):
                # Not getexif(): it also reads XMP, which OpenCV ignores.
                exif = Image.Exif()
                exif.load(header.info.get('exif', b''))
                orientation = exif.get(_EXIF_ORIENTATION, 1)
                if orientation >= _FIRST_TRANSPOSED:
                    width, height = height, width
            return ImageHeader(height, width, header.format in ('JPEG', 'MPO'), orientation != 1)
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError, TypeError, struct.error):
        return None


def decode(
    content: bytes,
    target: Callable[[tuple[int, int]], tuple[int, int]],
    color_type: str = 'color',
    backend: str | None = 'cv2',
    reduce: bool = True,
) -> tuple[np.ndarray, tuple[int, int], int]:
    """Decode an image at the smallest size that is not below the target size in height or width.

    Only JPEG files are reduced, and only by OpenCV; everything else is decoded at its full size. An image that EXIF
    rotates is reduced only by factors that divide both sides.

    Args:
        content: Content of the file.
        target: Full (height, width) of an image -> target (height, width).
        color_type: As in ``LoadImageFromFile``.
        backend: As ``imdecode_backend`` of ``LoadImageFromFile``.
        reduce: False decodes at full size.

    Returns:
        The image, (H, W, 3) of uint8 in BGR (or as ``color_type`` says); the full (height, width); and the reduction,
        1, 2, 4 or 8. A reduced side is the full side divided by the reduction, rounded up.

    Raises:
        InputError: the content is not an image that can be decoded.
    """
    # Choose the largest reduction that leaves enough pixels.
    header = read_header(content, color_type) if reduce and backend == 'cv2' and color_type in REDUCIBLE else None
    if header is not None and header.is_jpeg:
        full = (header.height, header.width)
        least = target(full)
        for factor, bit in REDUCTIONS.items():
            shape = (-(-full[0] // factor), -(-full[1] // factor))
            if shape[0] < least[0] or shape[1] < least[1]:
                continue
            # In a rotated image, the pixels that reach beyond the full image may be the first ones.
            if header.turned and (full[0] % factor or full[1] % factor):
                continue
            image = mmcv.imfrombytes(content, flag=imread_flags[color_type] | bit, backend=backend)
            if image is not None and image.shape[:2] == shape:
                return image, full, factor
            break  # The decoded size contradicts the header.

    # Otherwise decode at full size.
    image = mmcv.imfrombytes(content, flag=color_type, backend=backend) if content else None
    if image is None:
        raise InputError('not an image that can be read; restore the file')
    return image, image.shape[:2], 1


def resize_reduced(image: np.ndarray, full: tuple[int, int], factor: int, target: tuple[int, int]) -> np.ndarray:
    """Resize a reduced image bilinearly, aligned with the full image.

    If the factor does not divide a side, the last row or column of the reduced image reaches beyond the full image.
    Resizing the reduced image as a whole would then shift its content by up to a pixel.

    Args:
        image: (H, W, ...) of uint8 or float32, as :func:`decode` returns it.
        full: Height and width of the full image.
        factor: The reduction.
        target: Height and width of the result.
    """
    scale_y, scale_x = (side / (new * factor) for side, new in zip(full, target, strict=True))
    # Centres of pixels are at 0.5, 1.5, ... in units of pixels.
    to_source = np.array([[scale_x, 0, scale_x / 2 - 0.5], [0, scale_y, scale_y / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, to_source, target[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
