"""Images per second of data loaders with full decoding, reduced decoding and the image cache, and of MMDetection's."""

import contextlib
import io
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dinor1.benchmarks.timing import ratio, take_turns
from dinor1.datasets import CocoPromptDataset
from dinor1.datasets.reduced_decoding import read_header
from dinor1.datasets.resized_image import two_step_pipeline
from dinor1.utils.errors import InputError
from dinor1.utils.io import visible, write_image

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
BATCH_SIZE = 8
BOXES_PER_IMAGE = 4
BASELINE = 'MMDetection'


def make_photographs(folder: Path, width: int, height: int, count: int) -> list[Path]:
    """Write JPEG files with a spectrum like photographs: noise of all scales, weak at fine scales, and sharp edges.

    The same arguments give the same files.

    Args:
        folder: Folder for the files.
        width: Width in pixels.
        height: Height in pixels.
        count: Number of files.
    """
    paths = []
    for i in range(count):
        rng = np.random.default_rng((width, height, i))
        image = np.full((height, width, 3), 128, np.float32)
        # Add noise of all scales.
        side, amplitude = 4, 48.0
        while side < max(width, height):
            noise = rng.normal(0, amplitude, (side * height // max(width, height) + 1, side, 3)).astype(np.float32)
            image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
            side, amplitude = 2 * side, amplitude * 0.6
        # Draw ellipses with sharp edges.
        for _ in range(6):
            centre = (int(rng.integers(width)), int(rng.integers(height)))
            axes = (int(rng.integers(1, width // 4 + 2)), int(rng.integers(1, height // 4 + 2)))
            cv2.ellipse(image, centre, axes, 0, 0, 360, rng.integers(0, 256, 3).tolist(), -1)
        paths.append(folder / f'{i}.jpg')
        write_image(np.clip(image, 0, 255).astype(np.uint8), paths[-1])
    return paths


def find_images(folder: Path, count: int) -> list[Path]:
    """Find the first ``count`` image files of a folder and its subfolders, sorted by name.

    Raises:
        InputError: the folder does not exist, or has no image.
    """
    if not folder.is_dir():
        raise InputError(f'{folder}: no such folder; check the path')
    paths = [path for path in visible(folder, '**/*') if path.suffix.lower() in SUFFIXES][:count]
    if not paths:
        raise InputError(f'{folder}: has no image ({", ".join(SUFFIXES)}); name another folder')
    return paths


def write_annotations(paths: list[Path], file: Path) -> tuple[int, int]:
    """Write a COCO file with random boxes for these images.

    Returns:
        Median width and height of the images.

    Raises:
        InputError: an image cannot be read.
    """
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for i, path in enumerate(paths):
        header = read_header(path)
        if header is None:
            raise InputError(f'{path}: not an image that can be read; remove it, or name another folder')
        images.append(dict(id=i, file_name=str(path.absolute()), width=header.width, height=header.height))
        # Draw boxes with a quarter of the image's width and height, all inside the image.
        for corner in rng.uniform(0, 0.5, (BOXES_PER_IMAGE, 2)) * (header.width, header.height):
            box = [*corner.tolist(), header.width / 4, header.height / 4]
            boxes.append(dict(id=len(boxes), image_id=i, category_id=1, bbox=box, area=box[2] * box[3], iscrowd=0))
    file.write_text(json.dumps(dict(images=images, annotations=boxes, categories=[dict(id=1, name='object')])))
    return tuple(int(statistics.median(image[side] for image in images)) for side in ('width', 'height'))


def make_datasets(ann_file: Path, scale: tuple[int, int], folder: Path) -> dict[str, Dataset]:
    """Make a data set per way of loading the same images, resized to at most ``scale``, flipped at random and padded.

    Args:
        ann_file: Annotation file of :func:`write_annotations`.
        scale: Width and height in pixels.
        folder: Folder for the cache.
    """
    # Describe the pipelines.
    resize = dict(type='LoadResizedImage', scale=scale, keep_ratio=True)
    load_boxes = dict(type='LoadAnnotations', with_bbox=True)
    rest = [dict(type='RandomFlip', prob=0.5), dict(type='Pad', size=scale[::-1]), dict(type='PackDetInputs')]
    files = dict(ann_file=str(ann_file), data_prefix=dict(img=''))
    plain = two_step_pipeline(resize)

    def ours(**options: Any) -> Dataset:
        return CocoPromptDataset(**files, pipeline=[load_boxes, resize | options, *rest])

    # Build the data sets, without the messages of pycocotools.
    steps = [plain[0], load_boxes, plain[1], *rest]
    with contextlib.redirect_stdout(io.StringIO()):
        baseline = CocoDataset(**files, metainfo=dict(classes=('object',)), pipeline=steps)
    return {
        BASELINE: baseline,
        'full decoding': ours(reduce=False),
        'reduced decoding': ours(),
        'cache': ours(cache=dict(folder=str(folder), max_gib=64)),
    }


class _Clocked(Dataset):
    """Adds to each sample the index of its worker and the processor time that the worker has used so far."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int, float]:
        sample = self.dataset[index]
        return sample, get_worker_info().id, time.process_time()


def _collate(items: list[tuple[Any, int, float]]) -> tuple[Any, int, float]:
    samples, workers, times = zip(*items, strict=True)
    return pseudo_collate(list(samples)), workers[-1], times[-1]


def measure(datasets: dict[str, Dataset], workers: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Time whole epochs of every data set alternately, with persistent worker processes.

    Args:
        datasets: Name -> data set; the first one is the baseline.
        workers: Number of worker processes.
        rounds: Timed epochs of each data set, after one epoch without timing.

    Returns:
        Name -> ``images_per_second`` of a worker and ``cpu_milliseconds`` of a worker per image, including collation
        and transfer, both as quartiles, and ``relative``, the processor time relative to the baseline.
    """
    # Time the epochs, without the first of each data set, which starts the workers.
    cpu: dict[str, list[float]] = {name: [] for name in datasets}
    epochs = {name: _epoch(dataset, workers, cpu[name]) for name, dataset in datasets.items()}
    seconds = {name: one.times for name, one in take_turns(epochs, rounds).items()}
    cpu = {name: times[1:] for name, times in cpu.items()}
    # Compute rates, and times relative to the first data set.
    first, rows = next(iter(datasets)), {}
    for name, dataset in datasets.items():
        rows[name] = dict(
            images_per_second=quartiles([len(dataset) / wall / workers for wall in seconds[name]]),
            cpu_milliseconds=quartiles([1e3 * used / len(dataset) for used in cpu[name]]),
            relative=ratio(cpu[name], cpu[first]),
            seconds=seconds[name],
            cpu_seconds=cpu[name],
        )
    return rows


def _epoch(dataset: Dataset, workers: int, cpu: list[float]) -> Callable[[], None]:
    """Return a function that reads a data set once and appends the processor time of its workers to ``cpu``."""
    loader = DataLoader(
        _Clocked(dataset), BATCH_SIZE, shuffle=False, num_workers=workers, collate_fn=_collate, persistent_workers=True
    )
    # Workers persist and report their total processor time; an epoch's time is the difference of two totals.
    latest = dict.fromkeys(range(workers), 0.0)

    def run() -> None:
        before = sum(latest.values())
        for _, worker, used in loader:
            latest[worker] = used
        cpu.append(sum(latest.values()) - before)

    return run


def quartiles(values: list[float]) -> dict[str, float]:
    """Median, and lower and upper quartile."""
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return dict(low=low, median=median, high=high)


def benchmark(
    images: dict[str, Callable[[Path], list[Path]]],
    scale: tuple[int, int],
    workers: list[int],
    rounds: int,
    folder: Path,
) -> list[dict[str, Any]]:
    """Measure sets of images one after the other.

    Args:
        images: Name of a set -> function that returns its files; it may write them to the folder that is its argument.
        scale: Maximum width and height in pixels, to which images are resized.
        workers: Numbers of worker processes.
        rounds: See :func:`measure`.
        folder: Folder for generated files.
    """
    # Use no threads in OpenCV, as MMEngine does in training.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    rows = []
    try:
        for number, (name, make) in enumerate(images.items()):
            # Make the data sets.
            own = folder / str(number)
            own.mkdir()
            paths = make(own)
            size = write_annotations(paths, own / 'annotations.json')
            datasets = make_datasets(own / 'annotations.json', scale, own / 'cache')
            megabytes = sum(os.path.getsize(file) for file in visible(own / 'cache', '*.bin')) / 1e6
            # Measure them with each number of workers.
            for count in workers:
                for way, row in measure(datasets, count, rounds).items():
                    rows.append(dict(images=name, number=len(paths), size=size, way=way, workers=count, **row))
                    if way == 'cache':
                        rows[-1]['megabytes'] = megabytes
    finally:
        cv2.setNumThreads(threads)
    return rows
