#!/usr/bin/env python
"""Measure a trained detector under all prompt protocols on small sets, and make its tables with the baselines.

Examples:
    python tools/analysis_tools/protocol_detectors.py lite CONFIG CKPT data/raccoon data/bccd --out results/lite.jsonl
    python tools/analysis_tools/protocol_detectors.py untrained CONFIG none data/bccd --out results/lite.jsonl
    python tools/analysis_tools/protocol_detectors.py lite --out results/lite.jsonl --update docs/research/lite.md
"""

import argparse
from pathlib import Path

from dinor1.cli.options import ConfigOptions

NAME, DRAWS = 'detectors', 3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('name', help='name of the detector in the results')
    parser.add_argument('config', nargs='?', help='config file, or name of a config of dinor1')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint; none: the weights before a training, with seed 0')
    parser.add_argument('sets', nargs='*', help='folders with images and annotations/{train,val,test}.json')
    parser.add_argument('--out', required=True, metavar='FILE.jsonl', help='file of results, to which rows are added')
    parser.add_argument('--splits', nargs='+', default=['val', 'test'], help='splits to evaluate (default: val test)')
    parser.add_argument('--only-categories', metavar='FILE', help='categories to evaluate, a file in each set')
    parser.add_argument(
        '--exemplars', nargs='*', type=int, default=[1, 4, 16], help='exemplars per class (default: 1 4 16)'
    )
    parser.add_argument(
        '--seeds', type=int, default=DRAWS, metavar='N', help='draws of the prompts (default: %(default)s)'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override settings of the config'
    )
    parser.add_argument('--baselines', default='results/protocols.jsonl', help='results of protocol_baselines.py')
    parser.add_argument(
        '--compare', nargs='+', default=['training-free'], metavar='NAME', help='further columns of the tables'
    )
    parser.add_argument('--update', metavar='FILE.md', help=f'write the tables between <!-- {NAME}:begin --> and :end')
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.evaluation.odinw.runs import environment
    from dinor1.studies.detector_table import detector_tables
    from dinor1.studies.protocol_detectors import measure_detector
    from dinor1.studies.results import add_rows, read_rows
    from dinor1.studies.study import insert
    from dinor1.studies.trained_detector import trained_detector, untrained_detector
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import sha256

    # Check the options.
    if args.seeds < 1:
        raise InputError(f'--seeds must be at least 1, got {args.seeds}')
    # Measure each set, and add its row.
    if args.sets:
        if args.checkpoint == 'none':
            (model, cfg), digest = untrained_detector(args.config, args.cfg_options), None
        else:
            model, cfg = trained_detector(args.config, args.checkpoint, args.cfg_options)
            digest = sha256(args.checkpoint) if Path(args.checkpoint).is_file() else None
        options = dict(only_categories=args.only_categories) if args.only_categories else {}
        shared = dict(splits=args.splits, draws=args.seeds, checkpoint_sha256=digest, environment=environment())
        for root in args.sets:
            metrics = measure_detector(
                root,
                model,
                cfg,
                range(args.seeds),
                args.splits,
                num_exemplars=args.exemplars,
                options=options,
                progress=lambda line: print(line, flush=True),
            )
            name = Path(root).name
            row = dict(arm=f'{name}/{args.name}', set=name, baseline=args.name, metrics=metrics, model=args.config)
            add_rows(args.out, [row | shared])
    # Make the tables.
    rows = read_rows(args.out)
    sets = [row['set'] for row in rows if row['baseline'] == args.name]
    others = [row for row in read_rows(args.baselines) if row['set'] in sets]
    text = detector_tables([*rows, *others], [args.name, *args.compare], sets)
    if args.update:
        insert(args.update, NAME, text)
    print(text)


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
