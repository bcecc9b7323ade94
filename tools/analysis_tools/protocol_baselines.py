#!/usr/bin/env python
"""Measure the baselines of the prompt protocols on small sets, and make their table.

The baselines are the echo, frozen features and nearest neighbour.

Examples:
    python tools/analysis_tools/protocol_baselines.py data/raccoon data/bccd --out results/protocols.jsonl
    python tools/analysis_tools/protocol_baselines.py data/bccd --proposals work_dirs/bccd.bbox.json --out FILE.jsonl
    python tools/analysis_tools/protocol_baselines.py --out results/protocols.jsonl --update docs/research/protocols.md
"""

import argparse
from pathlib import Path

NAME = 'protocols'
DRAWS = 3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sets', nargs='*', help='folders with images and annotations/{train,val,test}.json')
    parser.add_argument('--out', required=True, metavar='FILE.jsonl', help='file of results, to which sets are added')
    parser.add_argument(
        '--proposals',
        default='windows',
        help='windows, selective-search, or a file of COCO results with boxes (default: %(default)s)',
    )
    parser.add_argument(
        '--seeds', type=int, default=DRAWS, metavar='N', help='draws of the prompts (default: %(default)s)'
    )
    parser.add_argument('--update', metavar='FILE.md', help=f'write the table between <!-- {NAME}:begin --> and :end')
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.benchmarks.training_free.frozen_features import FrozenFeatures
    from dinor1.benchmarks.training_free.proposals import proposals_from
    from dinor1.evaluation.odinw.runs import environment
    from dinor1.studies.protocol_baselines import measure_set
    from dinor1.studies.protocol_table import protocol_table
    from dinor1.studies.results import add_rows, read_rows
    from dinor1.studies.study import insert
    from dinor1.utils.errors import InputError

    # Check the options.
    if args.seeds < 1:
        raise InputError(f'--seeds must be at least 1, got {args.seeds}')
    # Measure each set and add its rows.
    if args.sets:
        proposals, features = proposals_from(args.proposals), FrozenFeatures()
        for root in args.sets:
            results = measure_set(root, features, proposals, range(args.seeds), lambda line: print(line, flush=True))
            name = Path(root).name
            command = f'python tools/analysis_tools/protocol_baselines.py data/{name} --out {args.out}'
            command += '' if args.proposals == 'windows' else f' --proposals {args.proposals}'
            command += '' if args.seeds == DRAWS else f' --seeds {args.seeds}'
            rows = [
                dict(arm=f'{name}/{baseline}', set=name, baseline=baseline, metrics=metrics, command=command)
                for baseline, metrics in results.items()
            ]
            shared = dict(seeds=args.seeds, proposals=args.proposals, environment=environment())
            add_rows(args.out, [row | shared for row in rows])
    # Make the table.
    text = protocol_table(read_rows(args.out))
    if args.update:
        insert(args.update, NAME, text)
    print(text)


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
