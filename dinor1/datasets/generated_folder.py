"""The folder of a generated data set: what may be reused, and what must not be replaced."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json


def read_manifest(path: Path, generator: str, kind: str) -> dict[str, Any] | None:
    """Read the manifest of a generated data set.

    Args:
        path: File of the manifest, in the folder of the data set.
        generator: Value of the manifest's ``generator``.
        kind: Name of the data set with its article, for messages, such as ``a shapes world``.

    Returns:
        The manifest, or None if the folder is absent or empty, so that it may be written to.

    Raises:
        InputError: the folder is a file, or has files that are not such a data set.
    """
    # An absent or empty folder may be written to.
    root = path.parent
    if not root.exists():
        return None
    if not root.is_dir():
        raise InputError(f'{root}: is a file; give the name of a folder')
    if not any(root.iterdir()):
        return None
    # Check that the folder has a data set of this kind.
    found = read_json(path) if path.exists() else None
    if not isinstance(found, dict) or found.get('generator') != generator:
        raise InputError(f'{root}: holds files that are not {kind}; choose another folder')
    return found


def check_complete(root: Path, sizes: Mapping[str, int], suffix: str) -> None:
    """Check that no file of a generated data set is missing.

    Args:
        root: Folder with ``images/SPLIT`` and ``annotations/SPLIT.json``.
        sizes: Split -> number of images.
        suffix: Suffix of the images, such as ``.png``.

    Raises:
        InputError: an image or an annotation file is missing.
    """
    for split, size in sizes.items():
        images = list((root / 'images' / split).glob(f'*{suffix}'))
        if len(images) != size or not (root / 'annotations' / f'{split}.json').is_file():
            raise InputError(f'{root}: files of {split} are missing; use --force to generate them again')
