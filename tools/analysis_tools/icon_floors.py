#!/usr/bin/env python
"""Measure the echo and frozen features on the icon world, and make their table.

Examples:
    python tools/analysis_tools/icon_floors.py --out results/icon_floors.jsonl
    python tools/analysis_tools/icon_floors.py --splits --out results/icon_floors.jsonl --update docs/icon_world.md
"""

import argparse

NAME = 'icon_floors'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', default='data/icons', help='folder of the icon world (default: %(default)s)')
    parser.add_argument(
        '--splits',
        nargs='*',
        default=['val_novel', 'test_novel', 'test_style'],
        help='splits; none: only make the table (default: val_novel test_novel test_style)',
    )
    parser.add_argument('--out', required=True, metavar='FILE.jsonl', help='file of results, to which splits are added')
    parser.add_argument('--update', metavar='FILE.md', help=f'write the table between <!-- {NAME}:begin --> and :end')
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.benchmarks.training_free.frozen_features import FrozenFeatures
    from dinor1.evaluation.odinw.runs import environment
    from dinor1.studies.icon_floors import floor_table, measure_floors
    from dinor1.studies.results import add_rows, read_rows
    from dinor1.studies.study import insert

    # Measure each split and add its row.
    if args.splits:
        features = FrozenFeatures()
        for split in args.splits:
            scores = measure_floors(args.data, split, features, progress=lambda line: print(line, flush=True))
            command = f'python tools/analysis_tools/icon_floors.py --splits {split} --out {args.out}'
            add_rows(args.out, [dict(arm=split, metrics=scores, command=command, environment=environment())])
    # Make the table.
    text = floor_table(read_rows(args.out))
    if args.update:
        insert(args.update, NAME, text)
    print(text)


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
