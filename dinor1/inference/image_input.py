"""Input images of the inferencer: files, folders, arrays and PIL images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dinor1.utils.errors import InputError

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')

# A path, a BGR array (H, W, 3) of uint8, or a PIL image.
ImageLike = str | Path | np.ndarray | Image.Image


def list_images(source: ImageLike | Sequence[ImageLike]) -> list[str | np.ndarray]:
    """List the images of a source: one image, a folder or a sequence of images.

    Args:
        source: See :data:`ImageLike`. A folder means the image files in it, not in its sub-folders, sorted by name.

    Returns:
        Paths as strings; arrays and PIL images as BGR arrays (H, W, 3) of uint8.

    Raises:
        InputError: a path does not exist, a folder has no image, or an entry is not an image.
    """
    # List the files of a folder,
    if isinstance(source, str | Path) and Path(source).is_dir():
        files = sorted(p for p in Path(source).iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise InputError(f'{source}: no image in this folder; expected files ending in {" ".join(SUFFIXES)}')
        return [str(file) for file in files]
    # or check one image after the other.
    items = list(source) if isinstance(source, list | tuple) else [source]
    return [as_path_or_array(item, f'image {i}') for i, item in enumerate(items)]


def as_path_or_array(image: Any, where: str = 'image') -> str | np.ndarray:
    """Check one image without reading it.

    Args:
        image: See :data:`ImageLike`.
        where: Name of the image in error messages, if it is not a file.

    Returns:
        A path as a string; an array or a PIL image as a BGR array (H, W, 3) of uint8.

    Raises:
        InputError: the file does not exist, or the value is not an image.
    """
    # A path: check that the file exists.
    if isinstance(image, str | Path):
        if not Path(image).is_file():
            raise InputError(f'{image}: no such image; check the path')
        return str(image)
    if isinstance(image, Image.Image):
        # A PIL image: rotate it by its EXIF entry, as when loading a file; boxes refer to the rotated image.
        return np.ascontiguousarray(np.asarray(_as_rgb(ImageOps.exif_transpose(image), where))[..., ::-1])
    # An array: check shape and type.
    if not isinstance(image, np.ndarray):
        raise InputError(f'{where}: expected a path, a BGR array or a PIL image, got {type(image).__name__}')
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f'{where}: expected a BGR array (H, W, 3) of uint8, got shape {image.shape} of {image.dtype}')
    return image


def _as_rgb(image: Image.Image, where: str) -> Image.Image:
    """A PIL image in RGB with 8 bits, as OpenCV reads its file.

    Raises:
        InputError: its pixels are floating-point numbers, whose range is unknown.
    """
    if image.mode == 'F':
        raise InputError(f'{where}: a PIL image of floating-point numbers; convert it to 8 bits first')
    if image.mode.startswith('I'):
        # 16 bits per pixel: keep the upper 8. PIL would clip at 255.
        pixels = np.asarray(image).astype(np.int64)
        if pixels.size and not 0 <= pixels.min() <= pixels.max() < 2**16:
            raise InputError(f'{where}: a PIL image with pixels outside of 16 bits; convert it to 8 bits first')
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
    return image.convert('RGB')
