#!/usr/bin/env python
"""Add finished runs of a study, for example from another machine, to its table.

run_study.py does this by itself after each run. Runs that the table has already are left out; a row is never replaced.

Examples:
    python tools/analysis_tools/collect_runs.py work_dirs/studies/vit_norm results/vit_norm.jsonl
    python tools/analysis_tools/collect_runs.py work_dirs/studies/vit_norm/LN_seed0 results/vit_norm.jsonl
"""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', help='work directory of a run, or the parent of several')
    parser.add_argument('table', metavar='TABLE.jsonl', help='table of the study')
    args = parser.parse_args()

    from dinor1.studies.collect import collect

    for key in collect(args.work_dir, args.table):
        print(f'Added: {key}')


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
