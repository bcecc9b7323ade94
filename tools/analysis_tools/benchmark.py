#!/usr/bin/env python
r"""Measure parameters, FLOPs, latency, training time and peak memory of detectors, and make the table of the results.

Weights are random. Prompts come from a bank, so that a prediction runs neither prompt encoder nor text model; the
baselines (MMDetection's and transformers' Grounding DINO, with Swin-T and at nano size) get stored text features
instead. A prediction goes from normalised images to final boxes; a training step is loss, backward pass and AdamW. The
models alternate.

Examples:
    python tools/analysis_tools/benchmark.py configs/_base_/models/dino_r1_nano.py --size 128 128 \
        --baselines mmdetection-nano transformers-nano --out nano.json
    python tools/analysis_tools/benchmark.py configs/_base_/models/dino_r1_swin-t.py --size 480 640 \
        --baselines mmdetection transformers --precisions float32 bfloat16 --threads 1 --clock cpu --rounds 3 \
        --out swin-t.json
    python tools/analysis_tools/benchmark.py --table swin-t.json --collect results/benchmark.jsonl
    python tools/analysis_tools/benchmark.py --table results/benchmark.jsonl --update docs/research/speed.md
"""

import argparse
import datetime
import os
import shlex
import sys
from pathlib import Path

import torch

import dinor1
from dinor1.benchmarks.timing_options import add_timing_options, apply_timing_options
from dinor1.cli.exit_status import run_command
from dinor1.utils import markdown

NAME = 'benchmark'
NOTE = (
    'Random weights. *relative* compares with the first line of a run: median over the rounds of the ratio within a '
    'round. Prompts come from a bank: neither prompt encoder nor text model runs in a prediction. FLOPs: a product and '
    'a sum are two; `grid_sample`, which the baselines use, is not counted. *peak*: memory beyond what is held between '
    'calls.'
)


def parse_args() -> argparse.Namespace:
    from dinor1.benchmarks.baselines import BASELINES
    from dinor1.benchmarks.model_benchmark import PASSES
    from dinor1.inference.acceleration import INFERENCE_DTYPES
    from dinor1.ops.ms_deform_attn.backends import BACKENDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='config files with a DINOR1')
    parser.add_argument(
        '--baselines', nargs='+', choices=list(BASELINES), default=[], help='models of other projects (default: none)'
    )
    parser.add_argument('--passes', nargs='+', choices=PASSES, default=['inference'], help='default: inference')
    parser.add_argument('--size', nargs=2, type=int, default=[800, 1333], metavar=('H', 'W'), help='default: 800 1333')
    parser.add_argument('--batch', type=int, default=1, help='images per call (default: 1)')
    parser.add_argument('--prompts', type=int, default=10, help='classes to detect (default: 10)')
    parser.add_argument('--boxes', type=int, default=8, help='ground-truth boxes per training image (default: 8)')
    parser.add_argument(
        '--precisions', nargs='+', choices=list(INFERENCE_DTYPES), default=['float32'], help='default: float32'
    )
    parser.add_argument(
        '--backends',
        nargs='+',
        choices=BACKENDS,
        default=['auto'],
        help='backends of deformable attention, for the configs (default: auto)',
    )
    parser.add_argument('--compile', action='store_true', help='also measure the configs under torch.compile')
    add_timing_options(parser, 5, 'calls of every model')
    parser.add_argument('--warmup', type=int, default=1, help='calls of every model before the timed ones (default: 1)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument('--no-flops', action='store_true', help='do not count operations')
    parser.add_argument('--no-memory', action='store_true', help='do not measure memory')
    parser.add_argument('--out', metavar='FILE.json', help='write every number to a file')
    parser.add_argument(
        '--table',
        nargs='+',
        metavar='FILE',
        help='measure nothing: print the table of these .json files, or of all rows of a .jsonl file',
    )
    parser.add_argument(
        '--collect', metavar='FILE.jsonl', help='with --table: also add the .json files to this file, as rows'
    )
    parser.add_argument(
        '--update', metavar='FILE.md', help=f'with --table: also write it between <!-- {NAME}:begin --> and :end'
    )
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Check the options before the first measurement."""
    from dinor1.utils.errors import InputError

    # Check which options belong together.
    if args.table:
        if args.configs or args.baselines:
            raise InputError('--table: makes a table of files and measures nothing; leave out configs and --baselines')
        return
    for option in ('update', 'collect'):
        if getattr(args, option):
            raise InputError(f'--{option}: needs --table FILE.json; measure with --out FILE.json first')
    if not args.configs and not args.baselines:
        raise InputError('nothing to measure: name a config, or --baselines')
    # Check the numbers and the device.
    counts = dict(batch=args.batch, prompts=args.prompts, boxes=args.boxes, rounds=args.rounds, warmup=args.warmup)
    for name, count in (counts | dict(size=min(args.size))).items():
        if count < 1:
            raise InputError(f'--{name}: must be at least 1')
    if args.device.split(':')[0] not in ('cpu', 'cuda'):
        raise InputError(f'--device {args.device}: must be cpu or cuda')
    apply_timing_options(args, [args.device])
    if args.compile and 'training' in args.passes:
        raise InputError('--compile: compiles inference only; measure training in a separate run')


def main() -> None:
    # Register before the models of the benchmark import MMDetection.
    dinor1.register_all()
    args = parse_args()
    check(args)

    from dinor1.studies.results import add_rows
    from dinor1.studies.study import insert
    from dinor1.utils.io import write_json

    # Make tables of earlier results.
    if args.table:
        records = read_records(args.table)
        text = table(records)
        if args.collect:
            add_rows(args.collect, records)
        if args.update:
            insert(args.update, NAME, text)
        print(text)
        return
    # Measure.
    record = run(args)
    print(measurements(record))
    if args.out:
        write_json(record, args.out, indent=2)


def run(args: argparse.Namespace) -> dict:
    """Measure all arms; returns the rows with machine and settings."""
    from dinor1.benchmarks.model_benchmark import make_arms, measure
    from dinor1.benchmarks.models import Workload
    from dinor1.inference.acceleration import why_not_compile
    from dinor1.utils.errors import InputError
    from dinor1.utils.processor import processor_name

    if args.compile and (reason := why_not_compile(args.device)):
        raise InputError(f'--compile: {reason}; install it, or leave the option out')
    # Measure.
    workload = Workload(tuple(args.size), args.batch, args.prompts, args.boxes, args.device)
    arms = make_arms([*args.baselines, *args.configs], args.precisions, args.backends, args.compile)
    rows = []
    for kind in args.passes:
        rows += measure(
            arms, kind, workload, args.rounds, args.warmup, args.clock, not args.no_flops, not args.no_memory
        )
    # Record machine and settings.
    environment = dict(
        device=processor_name() if args.device == 'cpu' else torch.cuda.get_device_name(args.device),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        date=datetime.date.today().isoformat(),
        load=round(os.getloadavg()[0], 1) if hasattr(os, 'getloadavg') else None,
    )
    # Name the tool by its path in the repository, not on this machine.
    command = shlex.join(['python', 'tools/analysis_tools/benchmark.py', *sys.argv[1:]])
    settings = dict(size=args.size, batch=args.batch, prompts=args.prompts, boxes=args.boxes, rounds=args.rounds)
    return dict(command=command, environment=environment, clock=args.clock, **settings, note=NOTE, rows=rows)


COLUMNS = {
    **dict.fromkeys(['model', 'pass', 'image'], 'l'),
    'batch': 'r',
    **dict.fromkeys(['precision', 'attention', 'mode'], 'l'),
    **dict.fromkeys(['ms per image (quartiles)', 'relative', 'peak MiB', 'M parameters', 'GFLOPs'], 'r'),
}


def measurements(record: dict) -> str:
    """Table of one run."""
    rows = []
    for row in record['rows']:
        # Describe the setting.
        mode = 'compiled' if row['compiled'] else 'eager'
        size = ' x '.join(map(str, record['size']))
        setting = [row['title'], row['kind'], size, str(record['batch']), row['precision'], row['backend'], mode]
        if 'error' in row:
            rows.append([*setting, row['error'], '', '', '', ''])
            continue
        # Format the measured numbers.
        times = row['milliseconds']
        numbers = [
            f'{times["median"]:.1f} ({times["low"]:.1f} to {times["high"]:.1f})',
            f'{row["relative"]:.3f}',
            f'{row["peak_mib"]:.0f}' if row.get('peak_mib') is not None else '',
            f'{row["parameters"] / 1e6:.2f}',
            f'{row["flops"] / 1e9:.1f}' if row.get('flops') is not None else '',
        ]
        rows.append(setting + numbers)
    return markdown.table(list(COLUMNS), rows, ''.join(COLUMNS.values()))


def read_records(files: list[str]) -> list[dict]:
    """Read records of this tool: a .json file has one, whose arm is the name of the file; a .jsonl has one per row.

    Raises:
        InputError: a file is missing or was not written by this tool.
    """
    from dinor1.studies.results import read_rows
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import read_json

    records = []
    for file in map(Path, files):
        found = read_rows(file) if file.suffix == '.jsonl' else [read_json(file)]
        if not all(isinstance(row, dict) and {'command', 'environment', 'clock', 'rows'} <= set(row) for row in found):
            raise InputError(f'{file}: not a result of this tool; make one with --out')
        records += [dict(arm=file.stem) | record for record in found]
    return records


def table(records: list[dict]) -> str:
    """Tables of several runs, each with its machine and command."""
    parts = [NOTE]
    for record in records:
        # Describe the machine and the clock.
        where = record['environment']
        clock = 'processor time' if record['clock'] == 'cpu' else 'wall-clock time'
        load = '' if where.get('load') is None else f', load {where["load"]} at the end'
        parts.append(
            f'{where["device"]}, {where["threads"]} threads, torch {where["torch"]}, {where["date"]}; {clock}, median '
            f'of {record["rounds"]} rounds{load}:'
        )
        # Add the times and the command.
        parts.append(measurements(record))
        parts.append(f'```bash\n{record["command"]}\n```')
    return '\n\n'.join(parts)


if __name__ == '__main__':
    run_command(main)
