#!/usr/bin/env python
"""Train all arms of a study with all seeds, and make its table.

Finished runs are kept: start the same command again after an interruption, or for the table alone.

Examples:
    python tools/analysis_tools/run_study.py configs/studies/vit_norm.py
    python tools/analysis_tools/run_study.py configs/studies/vit_norm.py --update model_zoo.md
"""

import argparse
import datetime
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', help='study file, see dinor1/apis/study.py')
    parser.add_argument('--results', default='results', help='result files go to RESULTS/STUDY/ (default: results)')
    parser.add_argument('--work-dir', default='work_dirs/studies', help='logs and checkpoints go here')
    parser.add_argument('--only', nargs='+', metavar='ARM', help='run these arms only')
    parser.add_argument('--table', action='store_true', help='train nothing')
    parser.add_argument(
        '--update',
        metavar='FILE.md',
        help='write the table between the lines <!-- STUDY:begin --> and <!-- STUDY:end -->',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from dinor1.apis.study import insert, load_study, table
    from dinor1.errors import InputError

    study = load_study(args.study)
    folder = Path(args.results) / study.path.stem
    arms = {run.arm for run in study.runs}
    if not set(args.only or []) <= arms:
        raise InputError(f'--only: no arm {sorted(set(args.only) - arms)}; the study has {sorted(arms)}')
    if not args.table:
        waiting = [run for run in study.runs if not (folder / f'{run.name}.json').is_file()]
        waiting = [run for run in waiting if run.arm in (args.only or arms)]
        start = time.perf_counter()
        for i, run in enumerate(waiting):
            execute(run, folder, Path(args.work_dir) / study.path.stem)
            spent = time.perf_counter() - start
            left = datetime.timedelta(seconds=round(spent / (i + 1) * (len(waiting) - i - 1)))
            print(f'[{i + 1}/{len(waiting)}] {run.name} (ETA {left})', flush=True)
    text = table(study, folder)
    print(text)
    if args.update:
        insert(args.update, study.path.stem, text)


def execute(run, folder: Path, work_dir: Path) -> None:
    """Train one run, resuming what an interruption left, and write its result file.

    Raises:
        InputError: the training failed.
    """
    import torch

    from dinor1.errors import InputError
    from dinor1.fileio import read_json, write_json

    work_dir = work_dir / run.name
    arguments = [run.config, '--seed', str(run.seed), '--work-dir', str(work_dir), '--resume']
    if run.options:
        arguments += ['--cfg-options', *run.options]
    work_dir.mkdir(parents=True, exist_ok=True)
    log = work_dir / 'train.log'
    start = time.perf_counter()
    with open(log, 'a') as file:
        command = [sys.executable, str(TOOLS / 'train.py'), *arguments]
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    if status:
        lines = log.read_text(errors='replace').strip().splitlines() or [f'exit status {status}']
        raise InputError(f'{run.name}: {lines[-1].removeprefix("error: ")} ({log})')
    record = dict(
        arm=run.arm,
        seed=run.seed,
        config=run.config,
        options=run.options,
        command=shlex.join(['python', 'tools/train.py', *arguments]),
        metrics=read_json(work_dir / 'metrics.json'),
        seconds=round(time.perf_counter() - start, 1),
        environment=dict(
            python=platform.python_version(), torch=torch.__version__, machine=platform.machine(), device=_device()
        ),
    )
    write_json(record, folder / f'{run.name}.json', indent=2)


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} threads'


if __name__ == '__main__':
    from dinor1.apis.cli import run_tool

    run_tool(main)
