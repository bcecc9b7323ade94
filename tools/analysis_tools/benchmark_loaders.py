#!/usr/bin/env python
r"""Measure images per second of a worker that loads training images, and compare with the needs of a training.

Four ways of loading alternate: MMDetection's data set with LoadImageFromFile and Resize, LoadResizedImage with full
and with reduced decoding, and its cache. The images are generated, with a spectrum like photographs, or come from
folders.

Examples:
    python tools/analysis_tools/benchmark_loaders.py
    python tools/analysis_tools/benchmark_loaders.py --images data/coco_mini/images --workers 1 2 --out loaders.json
    python tools/analysis_tools/benchmark_loaders.py --table loaders.json --collect results/loaders.jsonl
    python tools/analysis_tools/benchmark_loaders.py --table results/loaders.jsonl --update docs/research/loaders.md
"""

import argparse
import datetime
import os
import shlex
import sys
import tempfile
from functools import partial
from pathlib import Path

import dinor1
from dinor1.cli.exit_status import run_command

NAME = 'loaders'
SIZES = ['640x480', '1280x960', '4032x3024']


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--sizes',
        nargs='*',
        default=SIZES,
        metavar='WxH',
        help=f'sizes of generated photographs (default: {" ".join(SIZES)})',
    )
    parser.add_argument(
        '--images', nargs='+', default=[], metavar='FOLDER', help='also measure the images of these folders'
    )
    parser.add_argument('--count', type=int, default=48, help='images of each size and folder (default: 48)')
    parser.add_argument(
        '--scale',
        nargs=2,
        type=int,
        default=[320, 320],
        metavar=('W', 'H'),
        help='image size of the training (default: 320 320)',
    )
    parser.add_argument('--workers', nargs='+', type=int, default=[1, 2], help='worker processes (default: 1 2)')
    parser.add_argument('--rounds', type=int, default=7, help='timed epochs of each way (default: 7)')
    parser.add_argument(
        '--step-ms', type=float, default=31.0, help='time of a training step per image and rank (default: 31, of nano)'
    )
    parser.add_argument('--out', metavar='FILE.json', help='write every number to a file')
    parser.add_argument(
        '--table',
        metavar='FILE.json',
        help='measure nothing: print the table of this file, or of the last row of a .jsonl file',
    )
    parser.add_argument('--collect', metavar='FILE.jsonl', help='with --table: also add it to this file, as a row')
    parser.add_argument(
        '--update', metavar='FILE.md', help=f'with --table: also write it between <!-- {NAME}:begin --> and :end'
    )
    return parser.parse_args()


def check(args: argparse.Namespace) -> list[tuple[int, int]]:
    """Check the options before the first measurement; returns the sizes."""
    from dinor1.benchmarks.loader_benchmark import BATCH_SIZE
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import check_output

    # Check options and numbers.
    for option in ('update', 'collect'):
        if getattr(args, option) and not args.table:
            raise InputError(f'--{option}: needs --table FILE.json; measure with --out FILE.json first')
    numbers = dict(count=args.count, scale=min(args.scale), workers=min(args.workers), rounds=args.rounds)
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f'--{name}: must be at least 1, got {number}')
    if not args.step_ms > 0:
        raise InputError(f'--step-ms: must be positive, got {args.step_ms:g}')
    least = BATCH_SIZE * max(args.workers)
    if args.count < least:
        raise InputError(f'--count {args.count}: a worker would have no batch; give at least {least}')
    # Read the sizes.
    sizes = []
    for size in args.sizes:
        width, _, height = size.partition('x')
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            raise InputError(f'--sizes {size}: expected WIDTHxHEIGHT in pixels, such as 640x480')
        sizes.append((int(width), int(height)))
    if not sizes and not args.images:
        raise InputError('nothing to measure: give --sizes or --images')
    if args.out:
        check_output(args.out, '--out')
    return sizes


def main() -> None:
    # Register before MMDetection is imported.
    dinor1.register_all()
    args = parse_args()
    sizes = check(args)

    from dinor1.studies.results import add_rows
    from dinor1.studies.study import insert
    from dinor1.utils.io import read_json, write_json

    # Make the table of an earlier result.
    if args.table:
        text = table(args.table)
        if args.collect:
            add_rows(args.collect, [dict(arm=Path(args.table).stem) | read_json(args.table)])
        if args.update:
            insert(args.update, NAME, text)
        print(text)
        return
    # Measure.
    record = run(args, sizes)
    print('\n'.join(lines(record)))
    if args.out:
        write_json(record, args.out, indent=2)


def run(args: argparse.Namespace, sizes: list[tuple[int, int]]) -> dict:
    """Measure all ways of loading; returns the rows with machine and settings."""
    from dinor1.benchmarks.loader_benchmark import benchmark, find_images, make_photographs
    from dinor1.benchmarks.machine import version
    from dinor1.utils.processor import processor_name

    # List the sets of images.
    images = {
        f'made up, {width} x {height}': partial(make_photographs, width=width, height=height, count=args.count)
        for width, height in sizes
    }
    for folder in args.images:
        # Find the files before the first measurement.
        found = find_images(Path(folder), args.count)
        images[folder] = lambda _, found=found: found
    # Measure.
    with tempfile.TemporaryDirectory() as folder:
        rows = benchmark(images, tuple(args.scale), args.workers, args.rounds, Path(folder))
    environment = dict(
        device=processor_name(),
        cores=os.cpu_count(),
        opencv=version('opencv-python'),
        date=datetime.date.today().isoformat(),
        load=round(os.getloadavg()[0], 1) if hasattr(os, 'getloadavg') else None,
    )
    # Name the tool by its path in the repository, not on this machine.
    command = shlex.join(['python', 'tools/analysis_tools/benchmark_loaders.py', *sys.argv[1:]])
    settings = dict(scale=args.scale, rounds=args.rounds, step_ms=args.step_ms)
    return dict(command=command, environment=environment, **settings, rows=rows)


def lines(record: dict) -> list[str]:
    """Lines of the table: a row per set of images and way of loading, a column per number of workers."""
    # Make the heading.
    counts = sorted({row['workers'] for row in record['rows']})
    speeds = [f'images/s per worker, {count} worker{"s" * (count > 1)} (quartiles)' for count in counts]
    head = [*speeds, 'processor ms per image (quartiles)', 'relative', 'ranks fed by a worker', 'added to a step']
    made = [f'| images | loading | {" | ".join(head)} |', f'|---|---|{"---:|" * len(head)}']
    # Make the rows.
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in record['rows']:
        groups.setdefault((row['images'], row['way']), []).append(row)
    for (name, way), rows in groups.items():
        row = min(rows, key=lambda row: row['workers'])
        size = ' x '.join(map(str, row['size']))
        by_count = {row['workers']: with_quartiles(row['images_per_second'], 0) for row in rows}
        cells = [
            f'{row["number"]} {name}' if size in name else f'{row["number"]} {name}, {size}',
            f'{way}, {row["megabytes"]:.1f} MB' if 'megabytes' in row else way,
            *(by_count.get(count, '') for count in counts),
            with_quartiles(row['cpu_milliseconds'], 2),
            f'{row["relative"]:.2f}',
            f'{row["images_per_second"]["median"] * record["step_ms"] / 1e3:.1f}',
            f'{row["cpu_milliseconds"]["median"] / record["step_ms"]:.0%}',
        ]
        made.append(f'| {" | ".join(cells)} |')
    return made


def with_quartiles(values: dict[str, float], digits: int) -> str:
    """Median, and the quartiles in brackets."""
    low, median, high = (f'{values[name]:.{digits}f}' for name in ('low', 'median', 'high'))
    return f'{median} ({low} to {high})'


def table(file: str) -> str:
    """Table of a result file, with the machine, the needs of the training and the command.

    Raises:
        InputError: the file is missing or was not written by this tool.
    """
    from dinor1.studies.results import read_rows
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import read_json

    # Read the result.
    record = read_rows(file)[-1] if file.endswith('.jsonl') else read_json(file)
    if not isinstance(record, dict) or not {'command', 'environment', 'step_ms', 'rows'} <= set(record):
        raise InputError(f'{file}: not a result of this tool; make one with --out')
    # Describe the machine, the needs of the training and the command.
    where, step = record['environment'], record['step_ms']
    load = '' if where.get('load') is None else f', load {where["load"]} at the end'
    scale = ' x '.join(map(str, record['scale']))
    need = 1e3 / step
    parts = [
        f'{where["device"]}, {where["cores"]} cores, OpenCV {where["opencv"]}, {where["date"]}{load}; images resized '
        f'to at most {scale}, median of {record["rounds"]} epochs in turns.',
        f'A training step of {step:g} ms per image needs {need:.0f} images per second for a rank, {2 * need:.0f} for '
        'two. *Ranks fed by a worker* is how many of them a worker keeps busy on a core of its own: below 1, a rank '
        'with one worker waits. Where ranks and workers share the cores, *added to a step* is what loading takes from '
        'them, relative to the step. Processor time is that of a worker, with boxes, flipping, padding, collation and '
        'transfer; *relative* compares it with MMDetection, median over the rounds of the ratio within a round. These '
        f'three are with {min(row["workers"] for row in record["rows"])} worker, and *MB* is the size of the cache.',
        '\n'.join(lines(record)),
        f'```bash\n{record["command"]}\n```',
    ]
    return '\n\n'.join(parts)


if __name__ == '__main__':
    run_command(main)
