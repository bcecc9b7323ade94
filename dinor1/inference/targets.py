"""Targets of the command line: images, folders, patterns, videos and webcams."""

import glob
from collections.abc import Sequence
from pathlib import Path

from dinor1.inference.image_input import list_images
from dinor1.utils.errors import InputError
from dinor1.utils.image_file import VIDEO_SUFFIXES, image_suffixes
from dinor1.utils.video_file import webcam_number


def list_targets(targets: Sequence[str]) -> list[str]:
    """List the images and videos of several targets, each file once.

    Args:
        targets: Image files, folders of images, videos, webcams (``webcam:N``), and patterns such as
            ``'day*/**/*.jpg'``, in which ``**`` means any folders. A pattern gives the images and videos that match,
            sorted by name.

    Returns:
        Paths, in the order of the targets.

    Raises:
        InputError: a file does not exist, a folder has no image, or a pattern has neither images nor videos.
    """
    suffixes = image_suffixes() | VIDEO_SUFFIXES
    files: list[str] = []
    for target in targets:
        if webcam_number(target) is not None:
            files.append(target)
            continue
        # A file or a folder, even if its name looks like a pattern.
        if Path(target).exists() or not glob.has_magic(target):
            files += [str(path) for path in list_images(target)]
            continue
        # A pattern.
        matches = [path for path in map(Path, sorted(glob.glob(target, recursive=True))) if path.is_file()]
        found = [str(path) for path in matches if path.suffix.lower() in suffixes and not path.name.startswith('.')]
        if not found:
            raise InputError(f'{target}: no image or video matches; give a pattern of such files')
        files += found
    # Keep the first of several paths to the same file.
    return list({Path(file).resolve(): file for file in reversed(files)}.values())[::-1]
