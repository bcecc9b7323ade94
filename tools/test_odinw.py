#!/usr/bin/env python
"""Test a checkpoint on all available sets of ODinW, under every prompt protocol, and average.

Every set and protocol is a run of tools/test.py with the pipelines of CONFIG. Each run writes result files, and
finished runs are not repeated. `{set}` in CONFIG and CHECKPOINT is replaced by the name of the set.

Examples:
    python tools/test_odinw.py CONFIG CHECKPOINT --data-root data/odinw --prompt-seeds 5
    python tools/test_odinw.py CONFIG CHECKPOINT --sets ODinW-13 --split val --protocols visual-generic
    python tools/test_odinw.py 'configs/dino_r1/dino-r1_nano_1xb8_12e_{set}.py' 'work_dirs/{set}/epoch_12.pth' \
      --layout small
"""

import argparse
import datetime
import os
import pprint
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinor1.cli.options import ConfigOptions
from dinor1.evaluation.protocol_names import PROTOCOLS, VISUAL_GENERIC
from dinor1.utils.errors import InputError

if TYPE_CHECKING:
    from dinor1.evaluation.odinw.runs import Job, Settings
    from dinor1.evaluation.odinw.summary import Summary


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file; may contain {set}')
    parser.add_argument('checkpoint', help='checkpoint file; may contain {set}')
    parser.add_argument(
        '--layout',
        choices=['odinw', 'small'],
        default='odinw',
        help="odinw: the released files; small: this project's small sets of photographs, not official files",
    )
    parser.add_argument(
        '--data-root', help='folder of the sets (default: $DINOR1_DATA or data; for the layout odinw, odinw/ in it)'
    )
    parser.add_argument(
        '--sets', nargs='+', metavar='NAME', help='sets, or ODinW-13 or ODinW-35 (default: all of the layout)'
    )
    parser.add_argument(
        '--protocols',
        nargs='+',
        choices=list(PROTOCOLS),
        help='default: all; text only if the model has a language model',
    )
    parser.add_argument(
        '--split',
        choices=['test', 'val'],
        default='test',
        help='test: the split of the organisers of ODinW (val for PascalVOC); val: that of MMDetection (default: test)',
    )
    parser.add_argument(
        '--prompt-seeds', type=int, default=1, metavar='N', help='draws of visual-generic prompts (default: 1)'
    )
    parser.add_argument(
        '--num-exemplars', type=int, default=16, metavar='N', help='exemplars of visual-generic (default: 16)'
    )
    parser.add_argument(
        '--captions', action='store_true', help="text prompts: use GLIP's phrases for the classes that have one"
    )
    parser.add_argument('--arm', help='name in tables (default: fine-tuned if CHECKPOINT has {set}, else zero-shot)')
    parser.add_argument('--out-dir', help='folder for results (default: work_dirs/odinw/ARM)')
    parser.add_argument('--redo', action='store_true', help='repeat finished runs')
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override settings of CONFIG'
    )
    return parser.parse_args()


def settings_of(args: argparse.Namespace) -> 'Settings':
    """Convert the options to settings, with defaults.

    Raises:
        InputError: a number is not positive.
    """
    from dinor1.evaluation.odinw.runs import Settings

    if args.prompt_seeds < 1 or args.num_exemplars < 1:
        raise InputError('--prompt-seeds and --num-exemplars must be at least 1')
    base = Path(os.environ.get('DINOR1_DATA', 'data'))
    arm = args.arm or ('fine-tuned' if '{set}' in args.checkpoint else 'zero-shot')
    return Settings(
        config=args.config,
        checkpoint=args.checkpoint,
        arm=arm,
        layout=args.layout,
        split=args.split,
        data_root=args.data_root or str(base / 'odinw' if args.layout == 'odinw' else base),
        out_dir=Path(args.out_dir or f'work_dirs/odinw/{arm}'),
        protocols=tuple(args.protocols) if args.protocols else None,
        num_exemplars=args.num_exemplars,
        prompt_seeds=args.prompt_seeds,
        captions=args.captions,
        cfg_options=args.cfg_options,
        command=shlex.join(['python', 'tools/test_odinw.py', *sys.argv[1:]]),
    )


def main() -> None:
    args = parse_args()

    from dinor1.evaluation.odinw.benchmark import choose_sets, find_sets, load_sets
    from dinor1.evaluation.odinw.runs import finished, plan, refuse_other_results
    from dinor1.evaluation.odinw.summary import read_results, summarize
    from dinor1.evaluation.odinw.tables import tables

    # Find the sets.
    settings = settings_of(args)
    layout = load_sets(settings.layout)
    chosen = choose_sets(layout, args.sets)
    with_train = VISUAL_GENERIC in (settings.protocols or [VISUAL_GENERIC])
    present, missing = find_sets(chosen, settings.data_root, settings.split, with_train)
    if missing:
        print(f'Missing: {len(missing)} of {len(chosen)} sets ({", ".join(missing)}); for example, no file')
        print(f'  {next(iter(missing.values()))}')
    # Plan all runs, which checks their files, before the first one starts.
    jobs = plan(settings, present.values())
    refuse_other_results(settings, {path for job in jobs for path in job.paths} if args.redo else ())
    for warning in dict.fromkeys(warning for job in jobs for warning in job.fields['warnings']):
        print(f'Warning: {warning}')
    # Run those that are not finished.
    waiting = [job for job in jobs if args.redo or not finished(job)]
    print(f'{len(jobs) - len(waiting)} of {len(jobs)} runs are finished')
    failed = run_all(waiting)

    if len(failed) == len(jobs):
        raise InputError(f'all {len(jobs)} runs failed, the first: {next(iter(failed.values()))}')
    # Summarize all results.
    summaries = summarize(read_results(settings.out_dir), order=list(layout))
    write_summary(settings, summaries, missing, failed)
    print(f'\n{tables(summaries)}\n')
    print(f'Results: {settings.out_dir}/runs; summary: {settings.out_dir}/summary.json')
    if failed:
        raise InputError(f'{len(failed)} of {len(jobs)} runs failed, the first: {next(iter(failed.values()))}')


def run_all(jobs: list['Job']) -> dict[str, str]:
    """Run the jobs one after the other, and print the remaining time; returns run -> error of the failed runs.

    A failed run does not stop the others.
    """
    from dinor1.evaluation.odinw.runs import mean_scores, store

    failed: dict[str, str] = {}
    start = time.perf_counter()
    for i, job in enumerate(jobs, start=1):
        # Run the job, and store its result.
        command, record = execute(job)
        if isinstance(record, str):
            failed[job.title] = f'{job.title}: {record}'
            outcome = f'failed: {record}'
        else:
            try:
                scores = mean_scores(store(job, command, record))
                outcome = ', '.join(f'{name} {value:.3f}' for name, value in scores.items())
            except InputError as error:
                failed[job.title] = outcome = str(error)
        # Report.
        spent = time.perf_counter() - start
        left = datetime.timedelta(seconds=round(spent / i * (len(jobs) - i)))
        print(f'[{i}/{len(jobs)}] {job.title}: {outcome} (ETA {left})', flush=True)
    return failed


def execute(job: 'Job') -> tuple[str, dict[str, Any] | str]:
    """Run tools/test.py with its output in ``test.log``.

    The config is written to a file, because ``--cfg-options`` drops spaces, which some folders of ODinW have in their
    names. It is not written by MMEngine, which takes seconds to format it.

    Returns:
        The command line; and the metrics file of the run, or the last line of its output if it failed.
    """
    from dinor1.utils.io import atomic_path, read_json

    # Write the config.
    content = job.cfg.to_dict().items()
    with atomic_path(job.work_dir / 'config.py') as temporary:
        temporary.write_text(''.join(f'{k} = {pprint.pformat(v, width=118, sort_dicts=False)}\n' for k, v in content))
    # Run the test.
    metrics, log = job.work_dir / 'metrics.json', job.work_dir / 'test.log'
    metrics.unlink(missing_ok=True)
    arguments = [str(job.work_dir / 'config.py'), job.checkpoint, '--work-dir', str(job.work_dir)]
    if len(job.seeds) > 1:
        arguments += ['--prompt-seeds', str(len(job.seeds))]
    shown = shlex.join(['python', 'tools/test.py', *arguments])
    with open(log, 'w') as file:
        command = [sys.executable, str(Path(__file__).with_name('test.py')), *arguments]
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    # Return the result, or the reason of the failure.
    if status:
        lines = log.read_text(errors='replace').strip().splitlines() or [f'exit status {status}']
        return shown, f'{lines[-1].removeprefix("error: ")} ({log})'
    return shown, read_json(metrics)


def write_summary(
    settings: 'Settings', summaries: list['Summary'], missing: dict[str, str], failed: dict[str, str]
) -> None:
    """Write the rows and averages of all protocols to ``summary.json``."""
    from dinor1.utils.io import write_json

    # List the rows and averages of each protocol.
    protocols = []
    for summary in summaries:
        rows = [row._asdict() | dict(means=row.means, stds=row.stds) for row in summary.rows]
        averages = [average._asdict() for average in summary.averages]
        protocols.append(dict(title=summary.title, protocol=summary.protocol, rows=rows, averages=averages))
    # Add the settings, and write the file.
    keys = ('arm', 'config', 'checkpoint', 'command', 'layout', 'split')
    record = {key: getattr(settings, key) for key in keys}
    record |= dict(missing=missing, failed=failed, protocols=protocols)
    write_json(record, settings.out_dir / 'summary.json', indent=2)


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
