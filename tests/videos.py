"""Videos for tests: each frame has a grey level of its own, so that it can be recognised after decoding."""

import os
from pathlib import Path

import cv2
import numpy as np

# FFmpeg reads this once in a process, here when a test writes its first video.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')

LEVELS = 20  # grey levels between two frames; the codecs change a level by less than half of this


def grey_frame(index: int, width: int = 80, height: int = 60) -> np.ndarray:
    """(height, width, 3) BGR frame of one grey level."""
    return np.full((height, width, 3), index * LEVELS, np.uint8)


def frame_index(image: np.ndarray) -> int:
    """Index of the frame that an image was decoded from."""
    return round(float(image.mean()) / LEVELS)


def write_video(path: Path, num_frames: int, fps: float = 10, codec: str = 'mp4v', size: tuple = (80, 60)) -> Path:
    """Write up to 12 grey frames."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
    assert writer.isOpened()
    for index in range(num_frames):
        writer.write(grey_frame(index, *size))
    writer.release()
    return path


def decoded(path: Path) -> list[np.ndarray]:
    """All frames of a video, by OpenCV alone."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        done, image = capture.read()
        if not done:
            return frames
        frames.append(image)


class Camera:
    """In the place of OpenCV's capture of a camera: six grey frames at 30 per second, then the end.

    Args:
        number: Number of the camera.
        interrupted: Whether Ctrl-C is pressed in the place of the fourth frame.
    """

    def __init__(self, number: int, interrupted: bool = False) -> None:
        self.index, self.interrupted = -1, interrupted

    def isOpened(self) -> bool:  # noqa: N802, OpenCV's name
        return True

    def get(self, key: int) -> float:
        return 30.0 if key == cv2.CAP_PROP_FPS else -1.0

    def grab(self) -> bool:
        self.index += 1
        if self.interrupted and self.index == 3:
            raise KeyboardInterrupt
        return self.index < 6

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, grey_frame(self.index)

    def release(self) -> None:
        self.index = 99
