"""Rendering of SVG drawings with resvg, and a cache of the results.

A rendered drawing is cropped to its content, enlarged so that its longer side is ``SIDE`` pixels, and centred.
"""

import contextlib
import hashlib
import multiprocessing
import os
import signal
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rich.progress import track

from dinor1.datasets.icons.packs import COLOUR_PACK, INSTALL_HINT, Drawing
from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path

# Pixels of a rendered drawing, (SIDE, SIDE).
SIDE = 96
# Increase it if the same drawing gives other pixels than before.
RENDER_VERSION = 1
_CHUNK = 64


def render(svg: str, side: int = SIDE) -> np.ndarray:
    """Render a drawing, cropped to its content and centred.

    Args:
        svg: Source; ``currentColor`` is black.
        side: Length of the longer side of the content, in pixels.

    Returns:
        (side, side, 4) uint8, BGR and opacity, not premultiplied. All zero if nothing is visible.

    Raises:
        InputError: resvg is not installed, or the source is not valid SVG.
    """
    # Render the drawing.
    try:
        import resvg_py  # Imported here, because the package works without it.
    except ImportError:
        raise InputError(f'resvg_py: is not installed, and the icon world needs it; {INSTALL_HINT}') from None
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
    except ValueError as error:
        raise InputError(f'a drawing is not valid SVG ({error}); remove it, or install its pack again') from None
    # Crop it to its content.
    image = cv2.imdecode(np.frombuffer(bytes(png), np.uint8), cv2.IMREAD_UNCHANGED)
    x, y, width, height = cv2.boundingRect((image[..., 3] >= 16).astype(np.uint8))
    if width == 0:
        return np.zeros((side, side, 4), np.uint8)
    content = image[y : y + height, x : x + width]
    scale = side / max(width, height)
    size = [max(1, round(length * scale)) for length in (width, height)]
    # Weight colours with the opacity during the interpolation, because the colour of transparent pixels is black.
    weighted = content.astype(np.float32)
    weighted[..., :3] *= weighted[..., 3:] / 255
    weighted = cv2.resize(weighted, size, interpolation=cv2.INTER_LINEAR)
    weighted[..., :3] *= 255 / np.maximum(weighted[..., 3:], 1)
    # Centre the drawing.
    canvas = np.zeros((side, side, 4), np.uint8)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = np.clip(np.rint(weighted), 0, 255)
    return canvas


class Rendered(NamedTuple):
    """Rendered drawings.

    Attributes:
        opacity: (N, SIDE, SIDE) uint8.
        colours: (C, SIDE, SIDE, 3) uint8, BGR, of the coloured drawings.
        colour_index: (N,) int64, index into ``colours``; -1: a drawing of one colour, which may be chosen.
    """

    opacity: np.ndarray
    colours: np.ndarray
    colour_index: np.ndarray


class DrawingCache:
    """Rendered drawings, which are stored in a file for later runs.

    Args:
        folder: Folder of the file; None: drawings are only kept in memory, as for a folder that cannot be written.
        versions: Versions of the packs and the renderer. The name of the file depends on them.
    """

    def __init__(self, folder: str | os.PathLike | None, versions: Mapping[str, str]) -> None:
        digest = hashlib.sha256(repr((sorted(versions.items()), SIDE, RENDER_VERSION)).encode()).hexdigest()[:12]
        self.path = None if folder is None else Path(folder, f'drawings-{digest}.npz')

    def render(self, drawings: Sequence[Drawing], workers: int = 1, show_progress: bool = False) -> Rendered:
        """Render drawings, or read them from the file. Afterwards the file has exactly these drawings.

        Args:
            drawings: N drawings with unique keys.
            workers: Number of processes.
            show_progress: Show a progress bar.

        Raises:
            InputError: see :func:`render`.
        """
        # Read the stored drawings. The sources are part of the key, so that a pack changed by hand is rendered again.
        keys = hashlib.sha256(repr([(drawing.key, drawing.svg) for drawing in drawings]).encode()).hexdigest()
        stored = self._read(keys)
        if stored is not None:
            return stored
        # Render the drawings in chunks.
        coloured = np.array([drawing.pack == COLOUR_PACK for drawing in drawings], dtype=bool)
        result = Rendered(
            np.zeros((len(drawings), SIDE, SIDE), np.uint8),
            np.zeros((int(coloured.sum()), SIDE, SIDE, 3), np.uint8),
            np.where(coloured, np.cumsum(coloured) - 1, -1),
        )
        chunks = [[drawing.svg for drawing in drawings[i : i + _CHUNK]] for i in range(0, len(drawings), _CHUNK)]
        with process_pool(workers) as pool:
            parts = pool.map(_render_all, chunks) if pool else map(_render_all, chunks)
            index = 0
            for part in track(parts, 'Rendering the drawings', total=len(chunks), disable=not show_progress):
                for image in part:
                    result.opacity[index] = image[..., 3]
                    if coloured[index]:
                        result.colours[result.colour_index[index]] = image[..., :3]
                    index += 1
        self._write(keys, result)
        return result

    def _read(self, keys: str) -> Rendered | None:
        """Read the stored drawings; None if the file does not have exactly these drawings."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            with np.load(self.path) as content:
                if str(content['keys']) != keys:
                    return None
                return Rendered(*(content[field] for field in Rendered._fields))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None

    def _write(self, keys: str, result: Rendered) -> None:
        if self.path is None:
            return
        # If the cache cannot be written, the next run only takes longer.
        with contextlib.suppress(OSError), atomic_path(self.path) as temporary:
            np.savez_compressed(temporary, keys=np.array(keys), **result._asdict())


@contextlib.contextmanager
def process_pool(
    workers: int, initializer: Callable[..., None] | None = None, arguments: tuple = ()
) -> Iterator[ProcessPoolExecutor | None]:
    """Yield a pool of processes, or None for a single worker; waiting tasks are cancelled at the end."""
    if workers <= 1:
        yield None
        return
    # Use new processes and not forks: OpenCV's threads do not exist after a fork, and a call in the child can block
    # forever.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context('spawn'), initializer=_start_worker, initargs=(initializer, arguments)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(initializer: Callable[..., None] | None, arguments: tuple) -> None:
    # Ctrl-C reaches all processes of a terminal; the main process ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(1)
    if initializer is not None:
        initializer(*arguments)


def _render_all(sources: Sequence[str]) -> list[np.ndarray]:
    return [render(source) for source in sources]
