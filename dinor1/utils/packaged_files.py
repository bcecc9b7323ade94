"""Find files inside installed packages, such as pretrained weights, and check their checksums."""

import importlib.util
import re
from pathlib import Path

from dinor1.utils.errors import InputError
from dinor1.utils.io import sha256

# The convention of torch.hub: the file name ends in the first digits of the file's SHA-256.
_CHECKSUM = re.compile(r'-([0-9a-f]{8,64})$')


def find_packaged_file(package: str, relative: str) -> Path | None:
    """Return the path of a file or folder in an installed package, without importing the package.

    Args:
        package: Import name of a top-level package, such as ``timm``.
        relative: Path below the package's folder.

    Returns:
        The path; None if the package is not installed or has no such file.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / relative
        if path.exists():
            return path
    return None


def checksum_in_name(path: str | Path) -> str:
    """First digits of the SHA-256 in the name of a file or URL: ``57934424`` for ``lite0-57934424.pth``.

    Empty if the name contains none.
    """
    found = _CHECKSUM.search(Path(path).stem)
    return found[1] if found else ''


def check_sha256(path: str | Path) -> None:
    """Compare the SHA-256 of a file with the digits at the end of its name, as in ``lite0-57934424.pth``.

    Raises:
        InputError: the file has another checksum, or its name contains none.
    """
    path = Path(path)
    expected = checksum_in_name(path)
    if not expected:
        raise InputError(f'{path}: its name has no checksum, as in NAME-57934424.pth; keep the name of the original')
    found = sha256(path)
    if not found.startswith(expected):
        raise InputError(
            f'{path}: its SHA-256 begins with {found[: len(expected)]}, not with {expected} as its name says; it is '
            'damaged or another file: install or download it again'
        )
