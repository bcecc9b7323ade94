#!/usr/bin/env python
"""Train all arms of a study with all seeds, and make its table.

Finished runs are kept: start the same command again after an interruption, or for the table alone.

Examples:
    python tools/analysis_tools/run_study.py configs/studies/vit_norm.py
    python tools/analysis_tools/run_study.py configs/studies/vit_norm.py --update docs/research/norms.md
"""

import argparse
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', help='study file, see dinor1/studies/study.py')
    parser.add_argument('--results', default='results', help='the table file is RESULTS/STUDY.jsonl (default: results)')
    parser.add_argument('--work-dir', default='work_dirs/studies', help='logs and checkpoints go here')
    parser.add_argument('--only', nargs='+', metavar='ARM', help='run these arms only, and those that they start from')
    parser.add_argument('--seeds', nargs='+', type=int, metavar='N', help='run these seeds only')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time (default: 1)')
    parser.add_argument('--table', action='store_true', help='train nothing')
    parser.add_argument(
        '--update',
        metavar='FILE.md',
        help='write the table between the lines <!-- STUDY:begin --> and <!-- STUDY:end -->',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from dinor1.studies.run import run_all, select
    from dinor1.studies.study import insert, load_study, table

    study = load_study(args.study)
    results = Path(args.results) / f'{study.path.stem}.jsonl'
    runs = select(study, args.only, args.seeds)
    if not args.table:
        run_all(study, runs, results, Path(args.work_dir) / study.path.stem, args.jobs, _progress)
    text = table(study, results)
    print(text)
    if args.update:
        insert(args.update, study.path.stem, text)


def _progress(line: str) -> None:
    print(line, flush=True)


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
