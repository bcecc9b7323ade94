#!/usr/bin/env python
"""Time deformable attention: our backends, the compiled reference, and third-party implementations if installed.

All arms alternate, round after round, and all start from reference points, offsets and logits. ``encoder`` and
``decoder`` have the sizes of an 800 x 1333 image in the Swin-T model, the other workloads those of the nano model.

Examples:
    python tools/analysis_tools/benchmark_ops.py --threads 1 --clock cpu
    python tools/analysis_tools/benchmark_ops.py --device cuda --batch 1 8 --dtypes bfloat16 --compile
"""

import argparse
import itertools
import platform
import time

import torch

from dinor1.benchmarks.timing_options import add_timing_options, apply_timing_options
from dinor1.cli.exit_status import run_command
from dinor1.utils import markdown

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def parse_args() -> argparse.Namespace:
    from dinor1.benchmarks.op_benchmark import PASSES, WORKLOADS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workloads', nargs='+', choices=list(WORKLOADS), default=list(WORKLOADS), help='default: all')
    parser.add_argument('--passes', nargs='+', choices=list(PASSES), default=list(PASSES), help='default: both')
    parser.add_argument(
        '--dtypes', nargs='+', choices=list(DTYPES), default=['float32', 'bfloat16'], help='default: float32 bfloat16'
    )
    parser.add_argument('--batch', nargs='+', type=int, default=[1], help='images per call (default: 1)')
    add_timing_options(parser, 5, 'rounds of every arm')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu', help='default: cpu')
    parser.add_argument('--compile', action='store_true', help='also time the reference under torch.compile')
    parser.add_argument('--minutes', type=float, help='start no measurement after this time (default: no limit)')
    parser.add_argument('--out', metavar='FILE.json', help='also write the numbers to a file, after every measurement')
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Check the options before the first measurement."""
    from dinor1.utils.errors import InputError

    if min(*args.batch, args.rounds) < 1:
        raise InputError('--batch and --rounds must be at least 1')
    if args.minutes is not None and args.minutes <= 0:
        raise InputError('--minutes must be positive')
    apply_timing_options(args, [args.device])


def main() -> None:
    args = parse_args()
    check(args)

    from dinor1.benchmarks.op_benchmark import WORKLOADS, Timing, arms, ceilings, least_work, measure, not_measured
    from dinor1.utils.io import write_json

    deadline = float('inf') if args.minutes is None else time.monotonic() + 60 * args.minutes

    # Record the machine.
    name = torch.cuda.get_device_name() if args.device == 'cuda' else f'cpu ({platform.machine()})'
    record = dict(device=name, torch=torch.__version__, threads=torch.get_num_threads(), clock=args.clock)
    record['not_measured'] = not_measured(args.device)
    record['rows'] = rows = []
    print(f'{name}, torch {torch.__version__}, {torch.get_num_threads()} threads')
    heads = ['workload', 'dtype', 'batch', 'pass', 'arm', 'ms', 'fastest', 'relative', 'gathered GB/s']
    print(markdown.table_head(heads, 'llrllrrrr'))
    # Measure every workload, dtype and batch size.
    for workload, dtype, batch in itertools.product(args.workloads, args.dtypes, args.batch):
        work = least_work(WORKLOADS[workload], batch, DTYPES[dtype])
        roof = ceilings(WORKLOADS[workload], DTYPES[dtype], args.device, args.clock)
        many = args.device == 'cuda' or workload.startswith('nano')
        timing = Timing(args.device, args.rounds, args.clock, 20 if many else 1, deadline)
        for kind in args.passes:
            shared = dict(workload=workload, dtype=dtype, batch=batch, kind=kind)
            implementations = arms(args.device, args.compile)
            for row in measure(WORKLOADS[workload], batch, DTYPES[dtype], kind, implementations, timing):
                rows.append({**shared, **row, 'least_work': work, 'bytes_per_second': roof})
                print(
                    markdown.table_row([workload, dtype, batch, kind, row['arm'], *_cells(row, kind, work)]), flush=True
                )
            if args.out:
                write_json(record, args.out, indent=2)


def _cells(row: dict, kind: str, work: dict) -> list[str]:
    if 'error' in row:
        return [row['error'], '', '', '']
    relative = '' if row['relative'] is None else f'{row["relative"]:.3f}'
    # Compute bytes per second of the forward pass only: how often the backward pass reads depends on the backend.
    speed = f'{work["bytes_gathered"] / row["milliseconds"] / 1e6:.1f}' if kind == 'forward' else ''
    return [f'{row["milliseconds"]:.3f}', f'{row["fastest"]:.3f}', relative, speed]


if __name__ == '__main__':
    run_command(main)
