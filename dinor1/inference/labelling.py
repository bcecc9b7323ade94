"""Labels for many images: detect, keep what is done, and export."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.utils import ProgressBar

from dinor1.inference.export import FORMATS, export_detections
from dinor1.inference.image_files import DetectionCount, output_paths, request
from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint
from dinor1.utils.image_file import can_decode
from dinor1.utils.io import dump_json, read_json, write_json

SETTINGS = 'settings.json'


class Labelled(NamedTuple):
    """What :func:`label_files` did.

    Attributes:
        counts: Number of detections per class, over the images of earlier runs too.
        written: The files or folders of the export, most important first.
        num_resumed: Number of images whose result was there already.
        num_without_area: Number of detections that the export lacks, because their boxes have no area.
        unreadable: Images that cannot be read, and therefore have no result.
    """

    counts: DetectionCount
    written: list[Path]
    num_resumed: int
    num_without_area: int
    unreadable: list[str]


def label_files(
    inferencer: DINOR1Inferencer,
    targets: Sequence[str],
    out_dir: Path,
    format: str,
    score_thr: float = 0.3,
    batch_size: int = 8,
    resume: bool = False,
    **options: Any,
) -> Labelled:
    """Detect on image files, with a progress bar on standard error, and write the detections as annotations.

    ``preds/NAME.json`` of the folder has the result of each image, written when it is found, and ``settings.json`` the
    prompts and settings that all of them share. With ``resume``, images that have a result of the same settings are not
    searched again. The annotations are written at the end, see
    :func:`~dinor1.inference.export.export_detections`.

    Args:
        inferencer: Inferencer with prompts.
        targets: Image files.
        out_dir: Folder to write to.
        format: ``'coco'``, ``'yolo'``, ``'odvg'`` or ``'labelme'``.
        score_thr: Minimum score of a detection, in [0, 1].
        batch_size: Maximum number of images per forward pass.
        resume: Whether to keep the results of earlier runs.
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
    paths = [result for _, result in output_paths(targets, out_dir)]
    settings = _settings(inferencer, score_thr, options)
    digest = hashlib.sha256(dump_json(settings).encode()).hexdigest()
    if resume:
        _check_settings(out_dir / SETTINGS, settings)
    # Write the settings, and find out which images are done.
    write_json(settings, out_dir / SETTINGS, indent=2)
    done = [resume and _is_done(path, target, digest) for path, target in zip(paths, targets, strict=True)]
    remaining = [i for i, is_done in enumerate(done) if not is_done]
    # Detect on the others.
    unreadable: set[int] = set()
    bar: Any = ProgressBar(len(remaining), file=sys.stderr) if remaining else None
    try:
        for start in range(0, len(remaining), batch_size):
            indices = remaining[start : start + batch_size]
            images = [targets[i] for i in indices]
            samples, bad = _predict_readable(inferencer, images, batch_size, score_thr, options)
            unreadable |= {indices[i] for i in bad}
            for i, sample in zip((i for i in indices if i not in unreadable), samples, strict=True):
                result = inferencer.to_dict(sample) | request(inferencer.prompts, score_thr, **options)
                write_json(result | dict(best_scores=sample.best_scores, settings=digest), paths[i], indent=2)
            bar.update(len(indices))
    finally:
        if bar is not None:
            print(file=sys.stderr)  # The progress bar does not end its line.
    # Read all results, and export them.
    counts, records, file_names = DetectionCount(score_thr), [], []
    for i, path in enumerate(paths):
        if i not in unreadable:
            record = read_json(path)
            counts.add(record['names'], record['best_scores'])
            records.append(record)
            file_names.append(path.stem)
    written, without_area = export_detections(records, file_names, settings['prompts'], out_dir, format)
    return Labelled(counts, written, sum(done), without_area, [targets[i] for i in sorted(unreadable)])


def _settings(inferencer: DINOR1Inferencer, score_thr: float, options: dict[str, Any]) -> dict[str, Any]:
    """Everything that results depend on, apart from the image."""
    prompts: Any = inferencer.prompts
    digest = hashlib.sha256()
    for tensor in (prompts.embeddings.float(), prompts.labels, prompts.mask, prompts.groups):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    settings = request(prompts, score_thr, **options)
    return settings | dict(embeddings=digest.hexdigest(), weights=fingerprint(inferencer.model, whole=True))


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Check that the results in a folder, if there are any, have these settings.

    Raises:
        InputError: a setting differs, or the file is damaged.
    """
    if not path.exists():
        return
    earlier = read_json(path)
    if not isinstance(earlier, dict):
        raise InputError(f'{path}: not the settings of earlier results; choose another --out-dir')
    differing = [key for key in sorted(settings.keys() | earlier.keys()) if settings.get(key) != earlier.get(key)]
    if differing:
        raise InputError(
            f'{path}: the results in this folder have other settings ({", ".join(differing)}); choose another '
            '--out-dir, or leave out --resume to replace them'
        )


def _is_done(path: Path, target: str, digest: str) -> bool:
    """Whether there is a result of this image with these settings."""
    if not path.is_file():
        return False
    try:
        record = read_json(path)
    except InputError:  # damaged: it is written again
        return False
    return isinstance(record, dict) and record.get('settings') == digest and record.get('img_path') == target


def _predict_readable(
    inferencer: DINOR1Inferencer, images: list[str], batch_size: int, score_thr: float, options: dict[str, Any]
) -> tuple[list[Any], list[int]]:
    """Detect on the images that can be read.

    Returns:
        Their samples; and the indices of the other images.
    """
    try:
        return inferencer.predict(images, batch_size, score_thr, **options), []
    except InputError:
        # Look for the unreadable images only now, because it means to decode all of them.
        bad = [i for i, image in enumerate(images) if not can_decode(image)]
        if not bad:
            raise
    good = [image for i, image in enumerate(images) if i not in bad]
    return inferencer.predict(good, batch_size, score_thr, **options), bad
