"""Detection on videos and webcams: a JSON file per frame, a video with the detections, and the frames as images.

Frames are read, searched and written in batches, so that memory does not grow with the length of the video.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinor1.inference.arguments import check_batch_size
from dinor1.inference.image_files import DetectionCount, draw_record, output_paths
from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.inference.output_formats import to_record
from dinor1.inference.progress import Progress
from dinor1.inference.run_settings import RunSettings, open_run
from dinor1.utils.errors import InputError
from dinor1.utils.image_file import is_video
from dinor1.utils.io import read_json, write_image, write_json
from dinor1.utils.video_file import Frame, VideoReader, VideoWriter, check_video, video_writer, webcam_number


class VideoOptions(NamedTuple):
    """The frames of a video that are searched.

    Attributes:
        step: The first frame and every ``step``-th frame after it are searched; at least 1.
        max_frames: Maximum number of frames of a video that are searched; None: all frames, on a webcam until Ctrl-C.
    """

    step: int = 1
    max_frames: int | None = None


class VideoOutput(NamedTuple):
    """A video and the paths of its results.

    Attributes:
        source: Path of the video, or ``webcam:N``.
        name: First part of the names of its result files.
        out_dir: Folder of the results.
        keep_frames: Whether the searched frames are written as images.
    """

    source: str
    name: str
    out_dir: Path
    keep_frames: bool = False

    @property
    def drawing(self) -> Path:
        """Path of the video with the detections."""
        return self.out_dir / 'vis' / f'{self.name}.mp4'

    def result(self, index: int) -> Path:
        """Path of the JSON file of a frame."""
        return self.out_dir / 'preds' / f'{self.name}_{index:06d}.json'

    def frame(self, index: int) -> Path | None:
        """Path of the image of a frame; None: the image is not written."""
        return self.out_dir / 'frames' / f'{self.name}_{index:06d}.jpg' if self.keep_frames else None


class VideoResult(NamedTuple):
    """Result of a detection on a video.

    Attributes:
        counts: Number of detections per class, over all frames.
        results: The JSON file of each frame that was searched.
        num_resumed: Number of frames whose result existed already.
        note: A line about frames that could not be decoded; empty if there are none.
    """

    counts: DetectionCount
    results: list[Path]
    num_resumed: int
    note: str


def split_videos(targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split targets into image files, and video files or webcams (``webcam:N``)."""
    found = {target for target in targets if webcam_number(target) is not None or is_video(target)}
    return [target for target in targets if target not in found], [target for target in targets if target in found]


def readable_videos(videos: Sequence[str], skip: bool = False) -> tuple[list[str], list[str]]:
    """Decode the first frame of videos, as :func:`~dinor1.inference.readable_images` does for images.

    Args:
        videos: Paths of videos, and webcams.
        skip: Whether to leave out unreadable videos instead of raising an error.

    Returns:
        The videos that can be read, and one message for each unreadable video.

    Raises:
        InputError: a video cannot be read and ``skip`` is False, or no video can be read.
    """
    readable, problems = [], []
    for video in videos:
        try:
            check_video(video)
            readable.append(video)
        except InputError as error:
            if not skip:
                raise
            problems.append(str(error))
    if problems and not readable:
        raise InputError(problems[0])
    return readable, problems


def video_outputs(
    images: Sequence[str], videos: Sequence[str], out_dir: Path, keep_frames: bool = False
) -> list[VideoOutput]:
    """Paths of the results of each video, distinct from those of the images.

    Args:
        images: The other targets of the run.
        videos: Paths of videos, and webcams.
        out_dir: Folder of the results.
        keep_frames: See :class:`VideoOutput`.

    Raises:
        InputError: a result would overwrite a video.
    """
    # Choose names that differ from those of the images and of the other videos.
    taken = {result.stem for _, result in output_paths(images, out_dir)}
    outputs: list[VideoOutput] = []
    for video in videos:
        camera = webcam_number(video)
        stem = Path(video).stem if camera is None else f'webcam_{camera}'
        for number in itertools.count(1):
            name = stem if number == 1 else f'{stem}_{number}'
            is_frame = any(other.rpartition('_')[0] == name and other.rpartition('_')[2].isdigit() for other in taken)
            if not is_frame and name not in {output.name for output in outputs}:
                break
        outputs.append(VideoOutput(video, name, out_dir, keep_frames))
    # Reject drawings that would replace a video.
    sources = {Path(video).resolve() for video in videos}
    for output in outputs:
        if output.drawing.resolve() in sources:
            raise InputError(
                f'--out-dir {out_dir}: {output.drawing} is a target and would be overwritten; choose another folder'
            )
    return outputs


def detect_videos(
    inferencer: DINOR1Inferencer,
    outputs: Sequence[VideoOutput],
    out_dir: Path,
    score_thr: float = 0.3,
    batch_size: int = 8,
    resume: bool = False,
    videos: VideoOptions | None = None,
    **options: Any,
) -> list[VideoResult]:
    """Detect objects on videos and write the results, with a progress bar on standard error.

    In the folder, ``preds/NAME_000120.json`` has the result of frame 120, ``vis/NAME.mp4`` has the searched frames with
    their detections, and ``settings.json`` has the settings that all results share.

    Args:
        inferencer: Inferencer with prompts.
        outputs: The videos, see :func:`video_outputs`.
        out_dir: Folder of the results.
        score_thr: Minimum score of a detection, in [0, 1].
        batch_size: Maximum number of frames per forward pass.
        resume: Whether to keep the results of earlier runs.
        videos: Which frames to search.
        **options: Further arguments of :meth:`~dinor1.inference.DINOR1Inferencer.predict`, such as ``nms_thr``.

    Raises:
        InputError: no prompts are set, a video cannot be read, or with ``resume`` the results in the folder have other
            settings.
    """
    if inferencer.prompts is None:
        raise InputError('no prompts are set: call set_prompts before detect_videos')
    settings = open_run(inferencer, out_dir, score_thr, options, resume)
    return [detect_video(inferencer, output, settings, batch_size, videos) for output in outputs]


def detect_video(
    inferencer: DINOR1Inferencer,
    output: VideoOutput,
    settings: RunSettings,
    batch_size: int = 8,
    videos: VideoOptions | None = None,
) -> VideoResult:
    """Detect objects on one video of a run, as :func:`detect_videos` does.

    Ctrl-C ends the recording of a webcam, and its video is kept. On a file, Ctrl-C raises ``KeyboardInterrupt``: the
    video with the detections is not written, and the JSON files are kept.

    Args:
        inferencer: Inferencer with prompts.
        output: The video.
        settings: Settings of the run.
        batch_size: Maximum number of frames per forward pass.
        videos: Which frames to search.

    Raises:
        InputError: the video cannot be read or written, or a number is out of range.
    """
    # Check the arguments.
    videos = videos or VideoOptions()
    check_batch_size(batch_size)
    for name, value in zip(('step', 'max_frames'), videos, strict=True):
        if value is not None and (type(value) is not int or value < 1):
            raise InputError(f'{name} must be an integer of at least 1, got {value!r}')
    result = VideoResult(DetectionCount(settings.score_thr), [], 0, '')
    with VideoReader(output.source) as reader:
        # Read, detect and draw in batches.
        num_frames, fps = reader.info.num_frames, reader.info.fps
        totals = [math.ceil(num_frames / videos.step)] if num_frames is not None else []
        totals += [videos.max_frames] if videos.max_frames is not None else []
        is_camera = webcam_number(output.source) is not None
        frames = itertools.islice(reader.frames(videos.step), videos.max_frames)
        drawing = video_writer(output.drawing, fps if is_camera else fps / videos.step)
        with drawing as writer, Progress(min(totals, default=None)) as progress:
            try:
                for batch in _batched(frames, batch_size):
                    result = _detect_batch(inferencer, output, settings, batch, result, writer, is_camera)
                    progress.update(len(batch))
            except KeyboardInterrupt:
                # An interrupt is the usual end of a webcam.
                if not is_camera or not result.results:
                    raise
        # Compare the number of decoded frames with the number in the header of the file.
        stopped = videos.max_frames is not None and len(result.results) == videos.max_frames
        if num_frames is not None and reader.num_read < num_frames and not stopped:
            note = f'{output.source}: only {reader.num_read} of the {num_frames} frames of the header can be read'
            result = result._replace(note=note)
    return result


def _detect_batch(
    inferencer: DINOR1Inferencer,
    output: VideoOutput,
    settings: RunSettings,
    batch: Sequence[Frame],
    result: VideoResult,
    writer: VideoWriter,
    is_camera: bool,
) -> VideoResult:
    """Detect objects on a batch of frames, write their files, and append them to the video.

    Returns:
        The result of the video up to this batch.
    """
    # Find the frames that have a result already.
    done = [_is_done(output, settings, frame.number) for frame in batch]
    new = [frame for frame, is_done in zip(batch, done, strict=True) if not is_done]
    # Detect objects on the other frames.
    images = [frame.image for frame in new]
    samples: list[Any] = inferencer.predict(images, max(len(new), 1), settings.score_thr, **settings.options)
    for frame, sample in zip(new, samples, strict=True):
        image = output.frame(frame.number)
        if image is not None:
            write_image(frame.image, image)
        where = dict(img_path=str(image) if image else None, video=output.source, frame=frame.number)
        record = to_record(sample) | where | dict(seconds=frame.seconds) | settings.request
        record |= dict(best_scores=sample.best_scores, settings=settings.digest)
        write_json(record, output.result(frame.number), indent=2)
    # Count and draw the detections of all frames of the batch.
    num_classes = inferencer.prompts.num_classes if inferencer.prompts is not None else 0
    for frame in batch:
        record = read_json(output.result(frame.number))
        result.counts.add(record['names'], record['best_scores'])
        result.results.append(output.result(frame.number))
        writer.write(draw_record(frame.image, record, num_classes), frame.seconds if is_camera else None)
    return result._replace(num_resumed=result.num_resumed + sum(done))


def _is_done(output: VideoOutput, settings: RunSettings, index: int) -> bool:
    """Whether the result of a frame exists, and its image if images are written."""
    image = output.frame(index)
    expected: dict[str, Any] = dict(video=output.source, frame=index)
    if image is not None:
        expected |= dict(img_path=str(image))
    return (image is None or image.is_file()) and settings.is_done(output.result(index), **expected)


def _batched(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    """Lists of up to ``size`` frames."""
    while batch := list(itertools.islice(frames, size)):
        yield batch
