"""Whether an image file can be decoded."""

import os
from pathlib import Path

import mmcv


def can_decode(path: str | os.PathLike) -> bool:
    """Whether MMCV's loading transform can decode a file.

    OpenCV reads a truncated JPEG file from its path, with a grey rest, and refuses its content in memory, which is what
    the transform decodes.
    """
    try:
        return mmcv.imfrombytes(Path(path).read_bytes()) is not None
    except Exception:  # OpenCV raises errors of its own for an empty file
        return False
