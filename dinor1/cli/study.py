"""Run the arms of a study with all seeds, make its table, and collect results.

Finished runs are kept: after an interruption, start the same command again. Each run adds its row to the table;
`collect` adds runs of another work directory, for example from another machine. A row is never replaced.

Examples:
    dinor1 study run configs/studies/vit_norm.py
    dinor1 study run configs/studies/vit_norm.py --table --update docs/research/norms.md
    dinor1 study collect work_dirs/studies/vit_norm results/vit_norm.jsonl
"""

import argparse
from pathlib import Path

from dinor1 import studies


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    # Add the action that trains and measures.
    run = actions.add_parser('run', help='train the unfinished runs, and print the table', allow_abbrev=False)
    run.add_argument('study', help='study file, see dinor1/studies/study.py')
    run.add_argument('--results', default='results', help='folder of the table STUDY.jsonl (default: results)')
    run.add_argument('--work-dir', default='work_dirs/studies', help='folder for logs and checkpoints')
    run.add_argument('--only', nargs='+', metavar='ARM', help='run only these arms, and those that they start from')
    run.add_argument('--seeds', nargs='+', type=int, metavar='N', help='run only these seeds')
    run.add_argument('--jobs', type=int, default=1, help='number of parallel runs (default: 1)')
    run.add_argument('--table', action='store_true', help='print the table without training')
    run.add_argument(
        '--update',
        metavar='FILE.md',
        help='write the table between the lines <!-- STUDY:begin --> and <!-- STUDY:end -->',
    )
    run.set_defaults(act=_run)
    # Add the action that collects runs from elsewhere.
    collect = actions.add_parser('collect', help='add finished runs to a table', allow_abbrev=False)
    collect.add_argument('work_dir', help='work directory of a run, or the parent of several')
    collect.add_argument('table', metavar='TABLE.jsonl', help='table of the study')
    collect.set_defaults(act=_collect)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    args.act(args)


def _run(args: argparse.Namespace) -> None:
    # Choose the runs of the study.
    study = studies.load_study(args.study)
    results = Path(args.results) / f'{study.path.stem}.jsonl'
    runs = studies.select(study, args.only, args.seeds)
    # Run those without a result, unless only the table is requested.
    if not args.table:
        studies.run_all(study, runs, results, Path(args.work_dir) / study.path.stem, args.jobs, _show)
    # Print the table, and write it to a page.
    text = studies.table(study, results)
    print(text)
    if args.update:
        studies.insert(args.update, study.path.stem, text)


def _collect(args: argparse.Namespace) -> None:
    for key in studies.collect_runs(args.work_dir, args.table):
        print(f'Added: {key}')


def _show(line: str) -> None:
    print(line, flush=True)
