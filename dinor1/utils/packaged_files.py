"""Files that come inside an installed package, such as pretrained weights, and their checksums."""

import importlib.util
import re
from pathlib import Path

from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import sha256_of_file

# The convention of torch.hub: the file name ends in the first digits of the file's SHA-256.
_CHECKSUM = re.compile(r'-([0-9a-f]{8,64})$')


def find_packaged_file(package: str, relative: str) -> Path | None:
    """Path of a file or folder in an installed package, which is not imported.

    Args:
        package: Import name of a top-level package, such as ``timm``.
        relative: Path below the package's folder.

    Returns:
        The path; None: the package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / relative
        if path.exists():
            return path
    return None


def check_sha256(path: str | Path) -> None:
    """Compare the SHA-256 of a file with the digits at the end of its name, as in ``lite0-57934424.pth``.

    Raises:
        InputError: the checksum is another one, or the name has none.
    """
    path = Path(path)
    expected = _CHECKSUM.search(path.stem)
    if expected is None:
        raise InputError(f'{path}: its name has no checksum, as in NAME-57934424.pth; keep the name of the original')
    found = sha256_of_file(path)
    if not found.startswith(expected[1]):
        raise InputError(
            f'{path}: its SHA-256 begins with {found[: len(expected[1])]}, not with {expected[1]} as its '
            'name says; it is damaged or another file: install or download it again'
        )
