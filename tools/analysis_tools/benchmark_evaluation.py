#!/usr/bin/env python
"""Measure time and memory of box evaluation on generated data: LVIS against lvis, COCO against pycocotools.

All implementations evaluate the same annotations and detections, one after the other, each in a new process. The time
includes reading the annotation file; the detections are already in memory, in the format that the implementation
needs. Ratios are of processor time, because other load affects it less than wall-clock time.

Examples:
    python tools/analysis_tools/benchmark_evaluation.py lvis
    python tools/analysis_tools/benchmark_evaluation.py coco --out work_dirs/coco_evaluation.json
    python tools/analysis_tools/benchmark_evaluation.py lvis --images 500 --memory 8 --implementations dinor1 lvis
"""

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from dinor1.cli.exit_status import run_command

# Images, detections per image, classes, boxes per image; for LVIS about those of minival.
SIZES = {'lvis': (5000, 300, 1203, 11), 'coco': (5000, 100, 80, 7)}
IMPLEMENTATIONS = {
    'lvis': ('dinor1', 'dinor1 standard and fixed', 'lvis', 'faster_coco_eval lvis_style'),
    'coco': ('faster_coco_eval', 'pycocotools'),
}
# The baseline of the ratios.
REFERENCES = {'lvis': 'lvis', 'coco': 'pycocotools'}
_KIB_PER_GIB = 1024**2 if sys.platform != 'darwin' else 1024**3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('task', choices=SIZES, help='kind of evaluation')
    parser.add_argument('--images', type=int, help='number of images (default: 5000)')
    parser.add_argument('--detections', type=int, help='detections per image (default: 300 on lvis, 100 on coco)')
    parser.add_argument('--classes', type=int, help='number of classes (default: 1203 on lvis, 80 on coco)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the data (default: 0)')
    parser.add_argument('--implementations', nargs='+', metavar='NAME', help='implementations (default: all)')
    parser.add_argument('--memory', type=float, metavar='GIB', help='end an implementation that needs more')
    parser.add_argument('--minutes', type=float, help='end an implementation that takes more processor time')
    parser.add_argument('--out', metavar='FILE.json', help='also write the numbers to a file')
    parser.add_argument('--run', nargs=2, metavar=('NAME', 'FOLDER'), help=argparse.SUPPRESS)
    return parser.parse_args()


# Data ------------------------------------------------------------------------------------------------------


def make_data(
    images: int, detections: int, classes: int, boxes: int, federated: bool, seed: int
) -> tuple[dict, dict[str, np.ndarray]]:
    """Draw annotations and detections.

    Classes follow Zipf's law. Half of the detections are jittered copies of annotated boxes, one in five of these with
    a random class; the others are random boxes with random classes. A better detection tends to have a higher score.

    Args:
        images: Number of images.
        detections: Detections per image.
        classes: Number of classes.
        boxes: Mean number of annotated boxes per image, minus 1.
        federated: Whether to add the fields of LVIS (absent and not exhaustive categories) instead of crowds.
        seed: Random seed.

    Returns:
        Content of an annotation file; and columns ``image`` (N,) ids, ``label`` (N,), ``score`` (N,) and ``box``
        (N, 4) in (x, y, width, height), float32, sorted by image.
    """
    # Draw annotated boxes with their classes.
    rng = np.random.default_rng(seed)
    weight = 1 / np.arange(1, classes + 1)
    weight /= weight.sum()
    counts = rng.poisson(boxes, images) + 1
    owner = np.repeat(np.arange(images), counts)
    # Give an image at most four classes, so that most appear more than once.
    present = rng.choice(classes, size=(images, 4), p=weight)
    label = present[owner, rng.integers(0, 4, len(owner))]
    box = _random_boxes(rng, len(owner))
    area = box[:, 2] * box[:, 3] * rng.uniform(0.4, 1, len(owner))
    crowd = np.zeros(len(owner), dtype=int) if federated else (rng.random(len(owner)) < 0.01).astype(int)

    # Draw detections: jittered copies of annotated boxes, and random boxes.
    first = np.cumsum(counts) - counts
    image = np.repeat(np.arange(images), detections)
    source = first[image] + rng.integers(0, 2**31, len(image)) % counts[image]
    copied = rng.random(len(image)) < 0.5
    noise = np.where(copied, rng.uniform(0, 0.3, len(image)), 1.0)
    found = np.where(copied[:, None], box[source], _random_boxes(rng, len(image)))
    found += (noise * copied)[:, None] * rng.normal(size=(len(image), 4)) * found[:, [2, 3, 2, 3]] / 2
    found[:, 2:] = np.maximum(found[:, 2:], 1)
    own = copied & (rng.random(len(image)) < 0.8)
    columns = dict(
        image=image + 1,
        label=np.where(own, label[source], rng.choice(classes, len(image), p=weight)),
        score=np.clip(1 - noise * rng.uniform(0.3, 1, len(image)), 0, 1).astype(np.float32),
        box=found.astype(np.float32),
    )
    # Write the annotation file.
    absent = rng.choice(classes, size=(images, 9), p=weight)
    records = [dict(id=i + 1, file_name=f'{i + 1}.jpg', width=640, height=480) for i in range(images)]
    if federated:
        for record, here, not_here, open_ended in zip(records, present, absent, rng.random(images) < 0.3, strict=True):
            record['neg_category_ids'] = sorted({int(c) + 1 for c in not_here} - {int(c) + 1 for c in here})
            record['not_exhaustive_category_ids'] = [int(here[0]) + 1] if open_ended else []
    content = dict(
        info={},
        images=records,
        annotations=[
            dict(id=n + 1, image_id=int(i) + 1, category_id=int(c) + 1, bbox=b, area=float(a), iscrowd=int(s))
            for n, (i, c, b, a, s) in enumerate(zip(owner, label, box.tolist(), area, crowd, strict=True))
        ],
        categories=[dict(id=c + 1, name=f'class {c}', frequency='fcr'[3 * c // classes]) for c in range(classes)],
    )
    return content, columns


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw (count, 4) boxes in (x, y, width, height), with sides from 8 to 300 pixels."""
    return np.concatenate([rng.uniform(0, 400, (count, 2)), np.exp(rng.uniform(2.1, 5.7, (count, 2)))], 1)


def as_results(columns: dict[str, np.ndarray]) -> list[dict]:
    """Convert detections to COCO's result format."""
    lists = (columns[key].tolist() for key in ('image', 'label', 'box', 'score'))
    return [dict(image_id=i, category_id=c + 1, bbox=b, score=s) for i, c, b, s in zip(*lists, strict=True)]


# Implementations -------------------------------------------------------------------------------------------


def prepare(name: str, ann_file: str, columns: dict[str, np.ndarray]) -> Callable[[], float]:
    """Convert detections to the format that an implementation needs; returns a function that computes AP."""
    from dinor1.utils.compat import fill_lvis_numpy_float

    fill_lvis_numpy_float()

    if name == 'dinor1':
        from dinor1.evaluation.detections import Detections
        from dinor1.evaluation.lvis_eval import evaluate_lvis
        from dinor1.evaluation.lvis_ground_truth import LVISGroundTruth

        def run() -> float:
            truth = LVISGroundTruth.read(ann_file)
            image = np.searchsorted(truth.image_ids, columns['image'])
            # Rank the detections of each image by score.
            order = np.lexsort((-columns['score'], image))
            rank = np.empty(len(image), dtype=np.int64)
            rank[order] = np.arange(len(image)) - np.searchsorted(image, image)
            # Evaluate the 300 best detections of each image.
            box = columns['box'].astype(np.float64)
            found = Detections(image, columns['label'], columns['score'], box, rank)
            return evaluate_lvis(truth, found.select(rank < 300)).summary()['AP']

    elif name == 'dinor1 standard and fixed':
        import torch

        from dinor1.evaluation.lvis_metric import LVISFixedMetric

        # Split the detections by image, as a detector returns them.
        ids, starts = np.unique(columns['image'], return_index=True)
        corners = columns['box'].copy()
        corners[:, 2:] += corners[:, :2]
        samples = []
        for image, start, end in zip(ids.tolist(), starts, [*starts[1:], len(corners)], strict=True):
            rows = slice(start, end)
            predicted = dict(bboxes=corners[rows], scores=columns['score'][rows], labels=columns['label'][rows])
            samples.append(dict(img_id=image, pred_instances={k: torch.from_numpy(v) for k, v in predicted.items()}))

        def run() -> float:
            metric = LVISFixedMetric(ann_file)
            for sample in samples:
                metric.process(None, [sample])
            return metric.evaluate(len(samples))['lvis/AP']

    elif name == 'lvis':
        import lvis

        results = as_results(columns)

        def run() -> float:
            truth = lvis.LVIS(ann_file)
            evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, results), 'bbox')
            evaluation.run()
            return float(evaluation.results['AP'])

    elif name == 'faster_coco_eval lvis_style':
        import faster_coco_eval

        results = as_results(columns)

        def run() -> float:
            truth = faster_coco_eval.COCO(ann_file)
            evaluation = faster_coco_eval.COCOeval_faster(truth, truth.loadRes(results), 'bbox', lvis_style=True)
            evaluation.params.maxDets = [300]
            evaluation.run()
            return float(evaluation.stats_as_dict['AP_all'])

    else:
        from dinor1.evaluation.coco_metric import coco_curves, read_coco, summarize

        results = as_results(columns)

        def run() -> float:
            content = read_coco(ann_file)
            ids = [category['id'] for category in content['categories']]
            return summarize(coco_curves(content, results, ids, name)[0])['mAP']

    return run


def peak_memory() -> float:
    """Largest resident memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_PER_GIB


def measure(name: str, folder: Path) -> dict[str, float]:
    """Run an implementation in this process; returns its times, memory and AP."""
    # Read the detections.
    with np.load(folder / 'detections.npz') as file:
        columns = dict(file)
    # Evaluate, without the messages of the implementation.
    with contextlib.redirect_stdout(io.StringIO()):
        run = prepare(name, str(folder / 'annotations.json'), columns)
        before = peak_memory()
        clock, processor = time.perf_counter(), time.process_time()
        ap = run()
    return dict(
        seconds=time.perf_counter() - clock,
        cpu_seconds=time.process_time() - processor,
        memory_before_gib=before,
        memory_peak_gib=peak_memory(),
        AP=ap,
    )


def limit(memory: float | None, minutes: float | None) -> None:
    """End this process if it needs more data memory, in GiB, or more processor time."""
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory * 1024**3),) * 2)
    if minutes is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (int(60 * minutes),) * 2)


def run_apart(name: str, folder: Path, memory: float | None, minutes: float | None) -> dict:
    """Call :func:`measure` in a new process; returns its result, or ``failed`` with the reason."""
    # Run the process on one thread.
    command = [sys.executable, __file__, 'lvis', '--run', name, str(folder)]
    for option, value in (('--memory', memory), ('--minutes', minutes)):
        command += [] if value is None else [option, str(value)]
    threads = dict(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1', MKL_NUM_THREADS='1')
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    # Find the reason of a failure.
    last = (done.stderr.strip().splitlines() or ['killed'])[-1]
    if minutes is not None and done.returncode in (-signal.SIGKILL, -signal.SIGXCPU):
        return dict(failed=f'more than {minutes:g} minutes of processor time')
    return dict(failed=f'more than {memory:g} GiB' if 'MemoryError' in last or 'bad_alloc' in last else last[:100])


# Report ----------------------------------------------------------------------------------------------------


def table(rows: dict[str, dict], reference: str) -> str:
    """Markdown table; ``times faster`` is the processor time of ``reference`` divided by that of the row."""
    from dinor1.utils import markdown

    heads, lines = ['', 'seconds', 'processor s', 'times faster', 'peak GiB', 'before GiB', 'AP'], []
    whole = rows.get(reference, {}).get('cpu_seconds')
    for name, row in rows.items():
        if 'failed' in row:
            lines.append([name, row['failed'], *[''] * (len(heads) - 2)])
            continue
        ratio = f'{whole / row["cpu_seconds"]:.1f}' if whole else ''
        cells = [f'{row[key]:.1f}' for key in ('seconds', 'cpu_seconds')] + [ratio]
        cells += [f'{row[key]:.2f}' for key in ('memory_peak_gib', 'memory_before_gib')] + [f'{row["AP"]:.8f}']
        lines.append([name, *cells])
    return markdown.table(heads, lines)


def main() -> None:
    args = parse_args()
    # Run one implementation, if this is a child process.
    if args.run:
        limit(args.memory, args.minutes)
        print(json.dumps(measure(args.run[0], Path(args.run[1]))))
        return

    from dinor1.utils.errors import InputError
    from dinor1.utils.io import write_json

    # Check the options.
    given = (args.images, args.detections, args.classes, None)
    sizes = [default if value is None else value for value, default in zip(given, SIZES[args.task], strict=True)]
    if min(sizes) < 1:
        raise InputError('--images, --detections and --classes must be positive')
    names = args.implementations or IMPLEMENTATIONS[args.task]
    for name in names:
        if name not in IMPLEMENTATIONS[args.task]:
            known = ', '.join(IMPLEMENTATIONS[args.task])
            raise InputError(f'--implementations {name}: on {args.task} there are {known}')
    # Make the data, and run the implementations one after the other.
    with tempfile.TemporaryDirectory() as folder:
        content, columns = make_data(*sizes, federated=args.task == 'lvis', seed=args.seed)
        (Path(folder) / 'annotations.json').write_text(json.dumps(content))
        np.savez(Path(folder) / 'detections.npz', **columns)
        title = (
            f'{sizes[0]} images, {sizes[1]} detections each, {sizes[2]} classes, {len(content["annotations"])} boxes'
        )
        del content, columns
        print(title)
        rows = {}
        for name in names:
            rows[name] = run_apart(name, Path(folder), args.memory, args.minutes)
            print(f'{name}: {rows[name]}', file=sys.stderr)
    # Report.
    print(table(rows, REFERENCES[args.task]))
    if args.out:
        packages = ('dinor1', 'numpy', 'lvis', 'pycocotools', 'faster-coco-eval')
        environment = {name: version(name) for name in packages}
        environment |= dict(python=platform.python_version(), machine=platform.machine(), cpus=os.cpu_count())
        record = dict(
            command=' '.join(sys.argv),
            task=args.task,
            data=title,
            seed=args.seed,
            results=rows,
            environment=environment,
        )
        write_json(record, args.out, indent=2)


if __name__ == '__main__':
    run_command(main)
