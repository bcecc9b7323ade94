"""Checks of the image files of an annotation file: whether they exist, and whether they match their records."""

import contextlib
import math
import os
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from rich.console import Console
from rich.progress import track

from dinor1.utils.image_file import can_decode

from .findings import Finding

# Formats that PIL decodes as OpenCV does, which reads the images in training; other formats are decoded by both.
_COMMON = {'JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP', 'PPM'}
_ORIENTATION = 0x0112  # EXIF tag; the values 5 to 8 swap width and height
_MAX_SIDE, _MIN_SIDE, _MAX_ASPECT = 20_000, 8, 20
# Larger images are opened but not decoded.
MAX_PIXELS = 200_000_000
# Number of images that are looked up to recognise the folder of a split.
_NUM_PROBES = 20


class ImageFile(NamedTuple):
    """An image file on disk.

    Attributes:
        size: (width, height) as stored; None if it was not opened.
        orientation: EXIF orientation, 1 to 8; 1: as stored.
        problem: Why it cannot be read; empty if it can be read or was not decoded.
    """

    size: tuple[int, int] | None = None
    orientation: int = 1
    problem: str = ''

    @property
    def upright_size(self) -> tuple[int, int] | None:
        """(width, height) in training, where OpenCV applies the EXIF rotation."""
        return self.size[::-1] if self.size and self.orientation >= 5 else self.size


def locate(ann_file: Path, names: Sequence[Sequence[str]]) -> Path | None:
    """Find the folder that has the images of an annotation file.

    The candidates are the folder of the file and its ``images/``; for ``X/annotations/f.json`` also ``X/images/`` and
    ``X/``; and the folders in each of these.

    Args:
        ann_file: The file.
        names: For each image, the paths that it may have below the folder.

    Returns:
        The folder that has most of the first images; None if no folder has any.
    """
    # Collect the candidates.
    probes = [name for name in names if name][:_NUM_PROBES]
    here = ann_file.resolve().parent
    roots = [here, here / 'images']
    if here.name.startswith('annotation'):
        roots += [here.parent / 'images', here.parent]
    folders = [inner for root in roots if root.is_dir() for inner in (root, *_folders(root))]
    # Prefer a folder that is named like the file: several may have images of the same name, such as 0.png.
    folders.sort(key=lambda folder: folder.name not in ann_file.stem)
    # Choose the folder with the most images.
    best, most = None, 0
    for folder in dict.fromkeys(folders):
        found = sum(any((folder / name).is_file() for name in image) for image in probes)
        if found > most:
            best, most = folder, found
    return best


def _folders(root: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith('.'))


class Folder:
    """Names of the files below a folder; each inner folder is listed once, which is faster than single lookups.

    Args:
        root: The folder that names are relative to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Inner folder -> names, and names by their case-folded stem.
        self._listings: dict[str, tuple[set[str], dict[str, str]]] = {}

    def find(self, candidates: Sequence[str]) -> str | None:
        """The first of the candidates that exists, or None."""
        for name in candidates:
            head, tail = os.path.split(os.path.normpath(name))
            if tail in self._listing(head)[0]:
                return name
        return None

    def nearest(self, candidates: Sequence[str]) -> str | None:
        """A file whose name differs from a candidate only in case, suffix, folder or kind of slash, or None."""
        for name in candidates:
            # Search the folder of the candidate, and then the top folder.
            slashed = name.replace('\\', '/')
            for form in (slashed, os.path.basename(slashed)):
                head, tail = os.path.split(form)
                found = self._listing(head)[1].get(_fold(tail))
                if found:
                    return os.path.join(head, found)
        return None

    def _listing(self, head: str) -> tuple[set[str], dict[str, str]]:
        if head not in self._listings:
            try:
                names = {entry.name for entry in os.scandir(self.root / head) if entry.is_file()}
            except OSError:
                names = set()
            self._listings[head] = (names, {_fold(name): name for name in sorted(names)})
        return self._listings[head]


def _fold(name: str) -> str:
    return os.path.splitext(name)[0].casefold()


def inspect(path: Path) -> ImageFile:
    """Open and decode an image file; one above :data:`MAX_PIXELS` is only opened."""
    try:
        with Image.open(path) as image:
            size, too_large = image.size, math.prod(image.size) > MAX_PIXELS
            if too_large and image.format == 'PNG':  # EXIF data of a PNG file may follow the pixels
                return ImageFile(size)
            orientation = image.getexif().get(_ORIENTATION, 1)
            # An invalid orientation counts as upright.
            orientation = orientation if orientation in range(1, 9) else 1
            if too_large:
                return ImageFile(size, orientation)
            common = image.format in _COMMON
            image.load()
        # Pillow decodes some formats that OpenCV cannot.
        if not common and not can_decode(path):
            return ImageFile(size, orientation, 'OpenCV, which reads it in training, cannot')
        return ImageFile(size, orientation)
    # Decoders raise all kinds of errors on damaged files.
    except Exception as error:
        return ImageFile(problem=str(error).replace(str(path), 'the file') or type(error).__name__)


def inspect_all(
    paths: Mapping[int, Path], sample: int | None = None, workers: int | None = None, show_progress: bool = False
) -> dict[int, ImageFile]:
    """Decode image files in threads; the results have the keys of the paths.

    Args:
        paths: Key -> existing file.
        sample: Number of files to decode, drawn with a fixed seed; default: all.
        workers: Threads; default: one per processor.
        show_progress: Show a progress bar on standard error.
    """
    # Choose the files.
    keys = list(paths)
    if sample is not None and sample < len(keys):
        keys = sorted(random.Random(0).sample(keys, sample))
    # Decode them.
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool, _without_pixel_limit():
        image_files = pool.map(inspect, [paths[key] for key in keys])
        if show_progress and keys:
            console = Console(stderr=True)
            image_files = track(image_files, 'Images', total=len(keys), console=console, transient=True)
        return dict(zip(keys, image_files, strict=True))


@contextlib.contextmanager
def _without_pixel_limit() -> Iterator[None]:
    """Let PIL open images of more than 180 megapixels, such as aerial images, to read their size."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def image_file_findings(index: int, image: dict, image_file: ImageFile, boxes: Collection) -> Iterator[Finding]:
    """Defects of an image file that exists.

    Args:
        index: Index of the image in ``images``.
        image: Its valid record.
        image_file: The file on disk.
        boxes: ``[x, y, width, height]`` of its annotations.
    """
    # Report a file that cannot be read.
    name, size, orientation = image['file_name'], image_file.size, image_file.orientation
    if image_file.problem:
        yield Finding('unreadable image', f'{name}: {image_file.problem}', 'images', index)
        return
    if size is None:
        return
    # Compare the size of the record with that of the file, after the EXIF rotation.
    stated = (image['width'], image['height'])
    width, height = image_file.upright_size
    rotated = f'{name} is stored as {size[0]} x {size[1]} with EXIF orientation {orientation}'
    if stated != (width, height):
        detail = f'the annotation file has {stated[0]:g} x {stated[1]:g}'
        if orientation >= 5 and stated == size:
            yield Finding('EXIF rotation contradicts the boxes', f'{rotated}; {detail}', 'images', index)
        else:
            exchanged = stated == (height, width) and not any(_exceeds(box, width, height) for box in boxes)
            kind = 'width and height exchanged' if exchanged else 'wrong image size'
            yield Finding(kind, f'{name} is {width} x {height} pixels, {detail}', 'images', index)
    elif orientation != 1:
        yield Finding('EXIF rotation', rotated, 'images', index)


def size_warnings(index: int, image: dict) -> Iterator[Finding]:
    """Warnings about implausible sizes in the annotation file."""
    short, long = sorted((image['width'], image['height']))
    if short < _MIN_SIDE or long > _MAX_SIDE or long > _MAX_ASPECT * short or short * long > MAX_PIXELS:
        detail = f'{image["file_name"]} has {image["width"]:g} x {image["height"]:g} pixels'
        yield Finding('absurd image size', detail, 'images', index)


def _exceeds(box: Sequence[float], width: int, height: int) -> bool:
    return box[0] + box[2] > width + 1 or box[1] + box[3] > height + 1
