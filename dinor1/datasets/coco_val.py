"""The files of COCO val2017, images and boxes, from a folder or from the official archives."""

import os
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from mmengine.utils import track_iter_progress

from dinor1.utils.download import fetch
from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path, read_json


class Archive(NamedTuple):
    """A zip file and the members to unpack from it.

    Attributes:
        url: Address of the published file.
        checksum: Its SHA-256.
        members: Prefix of the paths of these members; they have the same paths below the data folder.
    """

    url: str
    checksum: str
    members: str


# COCO publishes no checksums, and its server has no valid certificate; these are the checksums of public mirrors.
ANNOTATIONS = Archive(
    'http://images.cocodataset.org/annotations/annotations_trainval2017.zip',
    '113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268',
    'annotations/instances_val2017.json',
)
IMAGES = Archive(
    'http://images.cocodataset.org/zips/val2017.zip',
    '4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05',
    'val2017/',
)


class CocoVal(NamedTuple):
    """Files of a validation set.

    Attributes:
        ann_file: Boxes in COCO format.
        img_dir: Folder of the images.
        num_images: Number of images of the annotation file.
    """

    ann_file: Path
    img_dir: Path
    num_images: int


def coco_val(
    root: str | os.PathLike, download: bool = False, annotations: Archive = ANNOTATIONS, images: Archive = IMAGES
) -> CocoVal:
    """Find COCO val2017 below ``root``, and unpack missing files from the official archives.

    An archive in ``root`` is used even without ``download``. Files that are there already are not fetched or unpacked
    again.

    Args:
        root: Folder with ``annotations/instances_val2017.json`` and ``val2017/``.
        download: Whether archives may be fetched.
        annotations: Archive with the annotation file.
        images: Archive with the images.

    Raises:
        InputError: a file is damaged, or is missing and may not or cannot be fetched.
    """
    root = Path(root)
    ann_file, img_dir = root / annotations.members, root / images.members
    # Read the names of the images.
    if not ann_file.is_file():
        _unpack(annotations, root, download, f'{ann_file}: no such file')
    content = read_json(ann_file)
    names = [image['file_name'] for image in content['images']] if _lists_images(content) else []
    if not names:
        raise InputError(f'{ann_file}: not a COCO file with images; delete it, and give --download')
    # Unpack missing images.
    if missing := _missing(names, img_dir):
        _unpack(images, root, download, f'{img_dir}: {len(missing):,} of {len(names):,} images are missing')
        missing = _missing(names, img_dir)
    if missing:
        raise InputError(f'{img_dir / missing[0]}: no such image, and not in the archive; give the official files')
    return CocoVal(ann_file, img_dir, len(names))


def _lists_images(content: object) -> bool:
    images = content.get('images') if isinstance(content, dict) else None
    return isinstance(images, list) and all(isinstance(image, dict) and 'file_name' in image for image in images)


def _missing(names: list[str], folder: Path) -> list[str]:
    return [name for name in names if not (folder / name).is_file()]


def _unpack(archive: Archive, root: Path, download: bool, problem: str) -> None:
    """Unpack the members of an archive that are not on disk yet.

    Raises:
        InputError: the archive is missing and may not or cannot be fetched, or is damaged.
    """
    path = root / archive.url.rsplit('/', 1)[-1]
    if not (download or path.is_file()):
        raise InputError(f'{problem}; give --download, or put {archive.url} at {path}, or give another --data-root')
    fetch([archive.url], path, archive.checksum)
    try:
        with zipfile.ZipFile(path) as file:
            wanted = [m for m in file.infolist() if m.filename.startswith(archive.members) and not m.is_dir()]
            wanted = [m for m in wanted if not (root / m.filename).is_file()]
            print(f'Unpacking {len(wanted):,} files of {path}', file=sys.stderr)
            for member in track_iter_progress(wanted, file=sys.stderr) if wanted else ():
                # read() verifies the CRC-32 of the member.
                with atomic_path(root / member.filename) as temporary:
                    temporary.write_bytes(file.read(member))
    except zipfile.BadZipFile as error:
        raise InputError(f'{path}: damaged ({error}); delete it to have it fetched again') from error
