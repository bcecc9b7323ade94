"""Label many images and videos: detect objects, keep the results of earlier runs, and export annotations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinor1.inference.export import FORMATS, export_detections
from dinor1.inference.image_files import DetectionCount, output_paths
from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.inference.progress import Progress
from dinor1.inference.run_settings import open_run
from dinor1.inference.video_detection import VideoOptions, detect_video, split_videos, video_outputs
from dinor1.utils.errors import InputError
from dinor1.utils.image_file import can_decode
from dinor1.utils.io import read_json, write_json


class Labelled(NamedTuple):
    """Result of :func:`label_files`.

    Attributes:
        counts: Number of detections per class, including the images of earlier runs.
        written: The files or folders of the export; the most important one comes first.
        num_resumed: Number of images whose result existed already.
        num_without_area: Number of detections that are not exported, because their boxes have no area.
        unreadable: Images that cannot be read, and therefore have no result.
        drawings: The videos with detections.
        notes: A line for each video that has fewer frames than its header states.
    """

    counts: DetectionCount
    written: list[Path]
    num_resumed: int
    num_without_area: int
    unreadable: list[str]
    drawings: list[Path]
    notes: list[str]


def label_files(
    inferencer: DINOR1Inferencer,
    targets: Sequence[str],
    out_dir: Path,
    format: str,
    score_thr: float = 0.3,
    batch_size: int = 8,
    resume: bool = False,
    video_options: VideoOptions | None = None,
    **options: Any,
) -> Labelled:
    """Detect objects on images and videos and write annotations, with a progress bar on standard error.

    In the folder, ``preds/NAME.json`` has the result of an image, which is written as soon as the image is processed.
    ``settings.json`` has the prompts and settings that all results share. With ``resume``, images that have a result
    with the same settings are not processed again. The annotations are written at the end, see
    :func:`~dinor1.inference.export.export_detections`. The frames of a video become images in ``frames/``, see
    :func:`~dinor1.inference.video_detection.detect_videos`.

    Args:
        inferencer: Inferencer with prompts.
        targets: Image files, videos and webcams.
        out_dir: Folder to write to.
        format: ``'coco'``, ``'yolo'``, ``'odvg'`` or ``'labelme'``.
        score_thr: Minimum score of a detection, in [0, 1].
        batch_size: Maximum number of images per forward pass.
        resume: Whether to keep the results of earlier runs.
        video_options: The frames of videos that are searched. Default: all.
        **options: Further arguments of :meth:`~dinor1.inference.DINOR1Inferencer.predict`, such as ``nms_thr``.

    Raises:
        InputError: no prompts are set, the format is unknown, or with ``resume`` the results in the folder have other
            settings.
    """
    # Check the arguments, and the settings of earlier results.
    if inferencer.prompts is None:
        raise InputError('no prompts are set: call set_prompts before label_files')
    if format not in FORMATS:
        raise InputError(f'unknown format {format!r}; give one of {", ".join(FORMATS)}')
    images, videos = split_videos(targets)
    paths = [result for _, result in output_paths(images, out_dir)]
    outputs = video_outputs(images, videos, out_dir, keep_frames=True)
    settings = open_run(inferencer, out_dir, score_thr, options, resume)
    # Detect objects on the images that have no result yet.
    done = [settings.is_done(path, img_path=image) for path, image in zip(paths, images, strict=True)]
    remaining = [i for i, is_done in enumerate(done) if not is_done]
    unreadable: set[int] = set()
    with Progress(len(remaining)) as progress:
        for start in range(0, len(remaining), batch_size):
            indices = remaining[start : start + batch_size]
            batch = [images[i] for i in indices]
            samples, bad = _predict_readable(inferencer, batch, batch_size, score_thr, options)
            unreadable |= {indices[i] for i in bad}
            for i, sample in zip((i for i in indices if i not in unreadable), samples, strict=True):
                record = inferencer.to_dict(sample) | settings.request
                write_json(record | dict(best_scores=sample.best_scores, settings=settings.digest), paths[i], indent=2)
            progress.update(len(indices))
    # Count the detections on the images, and detect objects on the videos.
    counts = DetectionCount(score_thr)
    results = [path for i, path in enumerate(paths) if i not in unreadable]
    for path in results:
        record = read_json(path)
        counts.add(record['names'], record['best_scores'])
    num_resumed, notes = sum(done), []
    for output in outputs:
        found = detect_video(inferencer, output, settings, batch_size, video_options)
        counts.include(found.counts)
        results += found.results
        num_resumed += found.num_resumed
        notes += [found.note] if found.note else []
    # Export all results.
    records, names = [read_json(path) for path in results], [path.stem for path in results]
    written, without_area = export_detections(records, names, settings.request['prompts'], out_dir, format)
    left_out = [images[i] for i in sorted(unreadable)]
    return Labelled(counts, written, num_resumed, without_area, left_out, [o.drawing for o in outputs], notes)


def _predict_readable(
    inferencer: DINOR1Inferencer, images: list[str], batch_size: int, score_thr: float, options: dict[str, Any]
) -> tuple[list[Any], list[int]]:
    """Detect objects on the images that can be read.

    Returns:
        The samples of these images, and the indices of the unreadable images.
    """
    try:
        return inferencer.predict(images, batch_size, score_thr, **options), []
    except InputError:
        # Search for the unreadable images only after an error, because this decodes all images.
        bad = [i for i, image in enumerate(images) if not can_decode(image)]
        if not bad:
            raise
    good = [image for i, image in enumerate(images) if i not in bad]
    return inferencer.predict(good, batch_size, score_thr, **options), bad
