"""Read frames of video files and webcams, and write MP4 files."""

import contextlib
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from dinor1.utils.errors import InputError
from dinor1.utils.image_file import is_video
from dinor1.utils.io import atomic_path, check_utf8

_WEBCAM = re.compile(r'webcam:(\d+)')
_FRAME = re.compile(r'(.+)@(\d+)', re.DOTALL)
# Slowest frame rate that is written, and the fastest rate that is not rounded to hundredths for the codec.
_SLOWEST, _EXACT = 0.1, 60.0
# Rates above the maximum are not frame rates: containers without a rate give 0, infinity or a clock of 90,000.
_MAX_FPS, _DEFAULT_FPS = 1000.0, 25.0
_CONVERT = 'restore it, or convert it: ffmpeg -i VIDEO -c:v libx264 new.mp4'


class VideoInfo(NamedTuple):
    """Information in the container of a video.

    Attributes:
        fps: Frames per second; 25 if the container has no rate.
        num_frames: Number of frames, which may be wrong; None if the container has no number, as for a webcam.
    """

    fps: float
    num_frames: int | None


class Frame(NamedTuple):
    """A frame.

    Attributes:
        number: Index of the frame in the video, from 0.
        seconds: Time of the frame in the video, or since the first frame of a webcam.
        image: (H, W, 3) BGR of uint8.
    """

    number: int
    seconds: float
    image: np.ndarray


def webcam_number(source: str | os.PathLike) -> int | None:
    """The number N of ``webcam:N``; None: the source is not a webcam."""
    match = _WEBCAM.fullmatch(str(source))
    return int(match[1]) if match else None


def split_frame(path: str) -> tuple[str, int] | None:
    """Video and index of ``clip.mp4@120``; None: the path is that of an existing file, or does not name a frame."""
    match = _FRAME.fullmatch(path)
    if match is None or os.path.exists(path) or not is_video(match[1]):
        return None
    return match[1], int(match[2])


class VideoReader:
    """An open video file or webcam; a context manager.

    Args:
        source: Path of a video, or ``webcam:N``.

    Attributes:
        source: Path of the video, or ``webcam:N``.
        info: Information in the container.
        num_read: Number of frames that :meth:`frames` has decoded or skipped.

    Raises:
        InputError: the file is missing, empty or damaged, or there is no such camera.
    """

    def __init__(self, source: str | os.PathLike) -> None:
        # Open the camera or the file.
        self.source, self._camera, self.num_read = str(source), webcam_number(source), 0
        if self._camera is not None:
            self._capture = _open(self._camera)
            if not self._capture.isOpened():
                raise InputError(f'{source}: no such camera, or another program uses it; give the number of another')
        else:
            check_utf8(self.source)
            _check_file(Path(source))
            # An absolute path is never interpreted as a URL. FFmpeg does not interpret it as a series of images.
            self._capture = _open(os.path.abspath(source), cv2.CAP_FFMPEG)
            if not self._capture.isOpened():
                raise InputError(f'{source}: a damaged video, or of a format that OpenCV does not decode; {_CONVERT}')
        # Read the information in the container.
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        is_count = self._camera is None and math.isfinite(count) and count >= 1
        self.info = VideoInfo(fps if 0 < fps <= _MAX_FPS else _DEFAULT_FPS, round(count) if is_count else None)

    def __enter__(self) -> 'VideoReader':
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def frames(self, step: int = 1, start: int = 0) -> Iterator[Frame]:
        """Frames ``start``, ``start + step``, and so on, until no further frame can be decoded.

        The frames between them are decoded too, because seeking is inexact in many formats. A camera may drop frames.

        Args:
            step: Distance between two frames, at least 1.
            start: Index of the first frame, at least 0.

        Raises:
            InputError: the video has no frame that can be decoded.
        """
        # Decode every frame, and yield those of the range.
        begin = time.monotonic()
        while self._capture.grab():
            index = self.num_read
            if index >= start and (index - start) % step == 0:
                done, image = self._capture.retrieve()
                if not done:
                    break
                self.num_read += 1
                seconds = time.monotonic() - begin if self._camera is not None else index / self.info.fps
                yield Frame(index, seconds, image)
            else:
                self.num_read += 1
        # A source without any frame is an error.
        if self.num_read == 0:
            reason = 'the camera gives no image; check it' if self._camera is not None else f'has no frame; {_CONVERT}'
            raise InputError(f'{self.source}: {reason}')


def read_frame(video: str | os.PathLike, index: int) -> np.ndarray:
    """Read one frame of a video file, (H, W, 3) BGR of uint8.

    Args:
        video: Path of the video.
        index: Index of the frame, from 0.

    Raises:
        InputError: the video cannot be read, or has fewer frames.
    """
    with VideoReader(video) as reader:
        for frame in reader.frames(step=1, start=index):
            return frame.image
    raise InputError(f'{video}@{index}: the video has no such frame; frames are counted from 0')


def check_video(source: str | os.PathLike) -> None:
    """Decode the first frame of a video or webcam.

    Raises:
        InputError: see :class:`VideoReader`.
    """
    with VideoReader(source) as reader:
        next(reader.frames())


class VideoWriter:
    """Writes frames to an MP4 file; see :func:`video_writer`.

    Args:
        path: The file.
        fps: Frames per second; lower rates than 0.1 become 0.1.
    """

    def __init__(self, path: Path, fps: float) -> None:
        fps = max(fps, _SLOWEST)
        fps = fps if fps <= _EXACT else round(fps, 2)
        self._path, self._fps, self._size, self._count = path, fps, (0, 0), 0
        self._writer: Any = None

    def write(self, image: np.ndarray, seconds: float | None = None) -> None:
        """Append a frame.

        Args:
            image: (H, W, 3) BGR of uint8. Frames of another size than the first are resized.
            seconds: Time of the frame. The frame is repeated until the video has this duration; None: it is written
                once.

        Raises:
            InputError: OpenCV cannot write MP4 files here.
        """
        # Open the file with the size of the first frame.
        if self._writer is None:
            self._size = image.shape[1], image.shape[0]
            codec = cv2.VideoWriter.fourcc(*'mp4v')
            self._writer = cv2.VideoWriter(str(self._path), cv2.CAP_FFMPEG, codec, self._fps, self._size)
            if not self._writer.isOpened():
                raise InputError('OpenCV cannot write MP4 videos here; install opencv-python of PyPI')
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        # Write the frame.
        repetitions = 1 if seconds is None else max(1, round(seconds * self._fps) + 1 - self._count)
        for _ in range(repetitions):
            self._writer.write(image)
        self._count += repetitions

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


@contextlib.contextmanager
def video_writer(path: str | os.PathLike, fps: float) -> Iterator[VideoWriter]:
    """Write an MP4 file (MPEG-4 part 2), completely or not at all.

    Args:
        path: The file.
        fps: Frames per second.

    Raises:
        InputError: OpenCV cannot write MP4 files, or the file cannot be written completely.
    """
    check_utf8(path)
    path = Path(path)
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(path))
        writer = VideoWriter(temporary, fps)
        try:
            yield writer
        finally:
            writer.close()
        # On a full disk, OpenCV raises no error and writes a file without an index, which cannot be opened.
        try:
            check_video(temporary)
        except InputError:
            raise InputError(f'{path}: the video cannot be written completely; free disk space') from None


def _open(*arguments: Any) -> cv2.VideoCapture:
    """Open OpenCV's capture without the messages of OpenCV and FFmpeg; our errors name the file."""
    # FFmpeg reads the variable when OpenCV loads it.
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    level = cv2.getLogLevel()
    cv2.setLogLevel(0)
    try:
        return cv2.VideoCapture(*arguments)
    finally:
        cv2.setLogLevel(level)


def _check_file(path: Path) -> None:
    """Check that a file exists and is not empty.

    Raises:
        InputError: the file is missing or empty.
    """
    if path.is_dir():
        raise InputError(f'{path}: a folder where a video is expected; give a file')
    if not path.is_file():
        raise InputError(f'{path}: no such video; check the path')
    if path.stat().st_size == 0:
        raise InputError(f'{path}: an empty file; restore it')
