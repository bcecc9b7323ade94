"""Whether an image file can be decoded."""

import os

import mmcv
from mmengine import fileio


def can_decode(path: str | os.PathLike, backend_args: dict | None = None) -> bool:
    """Whether MMCV's loading transform can read and decode a file.

    OpenCV reads a truncated JPEG file from its path, with a grey rest, and refuses its content in memory, which is what
    the transform decodes.

    Args:
        path: The file.
        backend_args: Arguments of MMEngine's file client.
    """
    try:
        return mmcv.imfrombytes(fileio.get(path, backend_args=backend_args)) is not None
    except Exception:  # OpenCV raises errors of its own for an empty file
        return False
