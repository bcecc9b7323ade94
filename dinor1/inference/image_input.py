"""Input images of the inferencer: files, folders, arrays and PIL images."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from PIL import Image

from dinor1.utils.errors import InputError
from dinor1.utils.image_file import VIDEO_SUFFIXES, bgr_from_pil, check_image, image_suffixes

from .progress import Progress

# A path, a BGR array (H, W, 3) of uint8, or a PIL image.
ImageLike = str | Path | np.ndarray | Image.Image

# Files that Windows adds to folders; those of macOS begin with a dot.
_SYSTEM_FILES = ('thumbs.db', 'desktop.ini')


def list_images(source: ImageLike | Sequence[ImageLike]) -> list[str | np.ndarray]:
    """List the images of a source: one image, a folder or a sequence of images.

    Args:
        source: See :data:`ImageLike`. A folder means the image files in it, sorted by name: those with the suffix of a
            format that OpenCV or Pillow decodes. Hidden files and sub-folders are ignored; other files are left out
            with a warning that counts them.

    Returns:
        Paths as strings; arrays and PIL images as BGR arrays (H, W, 3) of uint8. Files are not opened.

    Raises:
        InputError: a path does not exist, a folder has no image, or an entry is not an image.
    """
    # List the files of a folder,
    if isinstance(source, str | Path) and os.path.isdir(source):
        return _images_of_folder(Path(source))
    # or check one image after the other.
    items = list(source) if isinstance(source, list | tuple) else [source]
    return [as_path_or_array(item, f'image {i}') for i, item in enumerate(items)]


def readable_images(
    images: Sequence[str], skip: bool = False, progress_after: float = 1.5
) -> tuple[list[str], list[str]]:
    """Decode image files, to find those that cannot be read before a long run reaches them.

    Args:
        images: Paths.
        skip: Leave out unreadable files instead of raising an error.
        progress_after: Seconds after which a progress bar appears on standard error.

    Returns:
        The paths that can be read, in order, and one message per other file: its path, what is wrong, what to do.

    Raises:
        InputError: a file cannot be read and ``skip`` is False, or no file can be read.
    """

    def problem(path: str) -> str:
        try:
            check_image(path)
        except InputError as error:
            return str(error)
        return ''

    # Decode all files.
    problems = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, Progress(len(images), progress_after) as progress:
        for message in pool.map(problem, images):
            problems.append(message)
            progress.update()
    readable = [path for path, message in zip(images, problems, strict=True) if not message]
    unreadable = [message for message in problems if message]
    # Raise an error for the first unreadable file.
    if unreadable and not readable:
        more = '' if len(images) == 1 else f' (none of the {len(images)} images can be read)'
        raise InputError(f'{unreadable[0]}{more}')
    if unreadable and not skip:
        raise InputError(
            f'{unreadable[0]} ({len(unreadable)} of {len(images)} images cannot be read; --skip-unreadable goes on '
            'without them)'
        )
    return readable, unreadable


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
        if os.path.isdir(image):
            raise InputError(f'{image}: a folder where an image is expected; give a file')
        if not os.path.isfile(image):
            raise InputError(f'{image}: no such image; check the path')
        return str(image)
    if isinstance(image, Image.Image):
        return bgr_from_pil(image, where)
    # An array: check shape and type.
    if not isinstance(image, np.ndarray):
        raise InputError(f'{where}: expected a path, a BGR array or a PIL image, got {type(image).__name__}')
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f'{where}: expected a BGR array (H, W, 3) of uint8, got shape {image.shape} of {image.dtype}')
    return image


def _images_of_folder(folder: Path) -> list[str | np.ndarray]:
    """Paths of the image files in a folder, with a warning about other files.

    Raises:
        InputError: the folder cannot be listed, or has no image.
    """
    # List the files, without hidden ones.
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f'{folder}: cannot be listed ({error.strerror}); change its permissions') from None
    entries = [path for path in entries if not path.name.startswith('.') and path.name.lower() not in _SYSTEM_FILES]
    files = [path for path in entries if path.is_file()]
    # Separate the images from the other files.
    images = [path for path in files if path.suffix.lower() in image_suffixes()]
    suffixes = Counter(path.suffix.lower() for path in files)
    counts = {suffix: count for suffix, count in suffixes.items() if suffix not in image_suffixes()}
    others = ', '.join(f'{count} {suffix or "without suffix"}' for suffix, count in sorted(counts.items()))
    if images:
        if others:
            print_log(
                f'{folder}: left out {sum(counts.values())} of {len(files)} files, which are not images ({others})',
                logger='current',
                level=logging.WARNING,
            )
        return [str(path) for path in images]
    # Describe the content of the folder.
    if VIDEO_SUFFIXES & counts.keys():
        raise InputError(
            f'{folder}: no image in this folder, but videos ({others}); `dinor1 detect` takes them by a pattern in '
            f"quotes, '{folder}/*{min(VIDEO_SUFFIXES & counts.keys())}'"
        )
    if others:
        raise InputError(f'{folder}: no image in this folder, only {others}; give a folder of images')
    inner = 'only sub-folders, which are not searched' if entries else 'it is empty'
    raise InputError(f'{folder}: no image in this folder, {inner}; give a folder of images')
