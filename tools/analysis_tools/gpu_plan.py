#!/usr/bin/env python
"""Run a plan of measurements of at most five minutes on a GPU, and make tables of the records.

`check`: correctness and time of deformable attention; inference of Swin-T, of MMDetection and of transformers.
`train`: time of a training step of Swin-T, then a training in the remaining time. Every part has a time limit, and a
part that fails does not end the others. If this project is not installed on the machine, use tools/gpu_plan.sh.

Examples:
    python tools/analysis_tools/gpu_plan.py check --out work_dirs/gpu_plan
    python tools/analysis_tools/gpu_plan.py train --out work_dirs/gpu_plan --dry-run    # tiny, on a CPU
    python tools/analysis_tools/gpu_plan.py report work_dirs/gpu_plan/*.json --update docs/research/speed.md
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from dinor1.cli.exit_status import one_line_errors

ROOT = Path(__file__).resolve().parents[2]
NAME = 'gpu'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    plans = {name: commands.add_parser(name, help=f'run the plan {name}') for name in ('check', 'train')}
    for plan in plans.values():
        plan.add_argument('--out', default='work_dirs/gpu_plan', help='folder of the results (default: %(default)s)')
        plan.add_argument(
            '--dry-run', action='store_true', help='use tiny sizes on a CPU, to check that everything runs'
        )
    plans['train'].add_argument(
        '--recipe', metavar='CONFIG', help='config to train (default: nano DINO-R1, shapes world)'
    )
    plans['train'].add_argument(
        '--data',
        metavar='FILE.tar',
        help='data set of the config, at most 30 MB (default: the shapes world, generated)',
    )
    report = commands.add_parser('report', help='print the tables of records')
    report.add_argument('files', nargs='+', metavar='FILE.json', help='records of plans')
    report.add_argument(
        '--update', metavar='FILE.md', help=f'also write them between <!-- {NAME}:begin --> and <!-- {NAME}:end -->'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.command == 'report':
        report(args)
    else:
        run(args)


def run(args: argparse.Namespace) -> None:
    """Run a plan; the exit status is 1 if a part failed."""
    import torch

    from dinor1.benchmarks.gpu_plan import RECIPE, Training, check_parts, run_plan, train_parts
    from dinor1.utils.errors import InputError

    # Check the options.
    out, device = Path(args.out).absolute(), 'cpu' if args.dry_run else 'cuda'
    training = None
    if args.command == 'train':
        training = Training(args.recipe or RECIPE, Path(args.data).absolute() if args.data else None)
        training.check()
    if device == 'cuda' and not torch.cuda.is_available():
        raise InputError('there is no GPU on this machine; add --dry-run to check that everything else runs')
    # Run the parts.
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix='gpu_plan-') as folder:
        scratch = Path(folder)
        environment = {**os.environ, 'DINOR1_DATA': str(scratch / 'data'), 'PYTHONUNBUFFERED': '1'}
        parts = train_parts(args.dry_run, out, scratch, training) if training else check_parts(args.dry_run)
        say = lambda line: print(line, flush=True)  # noqa: E731
        record = run_plan(args.command, parts, out, scratch, device, environment, say)
    print(f'Results: {args.out}')
    if any(row['status'] != 'ok' for row in record['parts'].values()):
        sys.exit(1)


def report(args: argparse.Namespace) -> None:
    """Print the tables, and write them to a page if there is ``--update``."""
    from dinor1.benchmarks.gpu_report import read_records
    from dinor1.benchmarks.gpu_report import report as make_report
    from dinor1.studies.study import insert
    from dinor1.utils.errors import InputError

    records = read_records(args.files)
    text = make_report(records)
    if args.update:
        if any(record['dry_run'] for record in records):
            raise InputError('--update: a record of a dry run says nothing about speed; run the plan on a GPU')
        insert(args.update, NAME, text)
    print(text)


if __name__ == '__main__':
    with one_line_errors():
        main()
