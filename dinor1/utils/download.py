"""Files that are fetched once, with a checksum, and errors that say what to do without a network."""

import http.client
import sys
from collections.abc import Sequence
from pathlib import Path

from dinor1.utils.errors import InputError
from dinor1.utils.io import DISK_ERRORS, sha256


def fetch(urls: Sequence[str], path: str | Path, checksum: str = '') -> Path:
    """The file at ``path``, downloaded if it is not there yet.

    A file that is there is compared with the checksum, whoever put it there, and not fetched again. A download is
    written beside ``path`` and renamed when it is complete and correct, so that an interrupted one leaves nothing.

    Args:
        urls: Addresses of the same file, in the order in which they are tried. ``file://`` works too.
        path: Where it goes.
        checksum: First hexadecimal digits of its SHA-256; empty: it is not checked.

    Returns:
        ``path``.

    Raises:
        InputError: the file cannot be fetched from any address, or has another checksum.
        OSError: it cannot be written.
    """
    path = Path(path)
    if path.is_file():
        if checksum and not sha256(path).startswith(checksum):
            raise InputError(f'{path}: damaged, or not the file of {urls[0]}; delete it to have it fetched again')
        return path
    from torch.hub import download_url_to_file  # Imported here, because the rest of a command line needs no torch.

    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in urls:
        print(f'Fetching {url} to {path}', file=sys.stderr)
        try:
            download_url_to_file(url, str(path), checksum or None, progress=sys.stderr.isatty())
        except RuntimeError:  # the checksum
            reasons.append(f'{url}: another checksum than {checksum}')
        except (OSError, http.client.HTTPException) as error:
            # Errors of a connection are errors of the operating system, as those of the disk are.
            if isinstance(error, PermissionError) or getattr(error, 'errno', None) in DISK_ERRORS:
                raise
            reasons.append(f'{url}: {" ".join(str(getattr(error, "reason", error)).split())}')
        else:
            return path
    raise InputError(
        f'{path.name}: cannot be fetched ({"; ".join(reasons)}); download it on another machine and put it at {path}'
    )
