"""Download files once, check them, and say what to do without a network."""

import http.client
import sys
from collections.abc import Sequence
from pathlib import Path

from dinor1.utils.errors import InputError
from dinor1.utils.io import DISK_ERRORS, sha256


def fetch(urls: Sequence[str], path: str | Path, checksum: str = '') -> Path:
    """Download a file to ``path`` unless it exists.

    An existing file is compared with the checksum and not downloaded again. A download is written beside ``path`` and
    renamed when it is complete and correct, so that an interrupted download leaves no file.

    Args:
        urls: Addresses of the same file, in the order in which they are tried. ``file://`` works too.
        path: File to write.
        checksum: First hexadecimal digits of the SHA-256; empty: the file is not checked.

    Returns:
        ``path``.

    Raises:
        InputError: the file cannot be downloaded from any address, or has another checksum.
        OSError: the file cannot be written.
    """
    # Check an existing file.
    path = Path(path)
    if path.is_file():
        if checksum and not sha256(path).startswith(checksum):
            raise InputError(f'{path}: damaged, or not the file of {urls[0]}; delete it to download it again')
        return path
    # Download from the first address that works.
    from torch.hub import download_url_to_file  # Imported here, because commands that download nothing need no torch.

    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in urls:
        print(f'Fetching {url} to {path}', file=sys.stderr)
        try:
            download_url_to_file(url, str(path), checksum or None, progress=sys.stderr.isatty())
        except RuntimeError:  # raised by torch for a wrong checksum
            reasons.append(f'{url}: another checksum than {checksum}')
        except (OSError, http.client.HTTPException) as error:
            # Connection and disk errors are both OSErrors: raise only those of the disk.
            if isinstance(error, PermissionError) or getattr(error, 'errno', None) in DISK_ERRORS:
                raise
            reasons.append(f'{url}: {" ".join(str(getattr(error, "reason", error)).split())}')
        else:
            return path
    raise InputError(
        f'{path.name}: cannot be fetched ({"; ".join(reasons)}); download it on another machine and put it at {path}'
    )
