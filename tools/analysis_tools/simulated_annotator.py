#!/usr/bin/env python
"""Measure the time that an annotator saves by labelling a set by example, and the quality of the labels.

The simulated annotator draws the boxes of a few images by hand, prompts the released detector with them, confirms or
removes detections on five images to choose thresholds, and checks the detections on all others. A drawn box costs 7 s,
a click 1.6 s, and the inspection of an image 7.8 s. The policy, the costs and their sources are in
dinor1/studies/annotator.py, and were fixed before the first measurement. Finished draws are not measured again.

Examples:
    python tools/analysis_tools/simulated_annotator.py data/raccoon data/chess_pieces --out FILE.jsonl
    python tools/analysis_tools/simulated_annotator.py --out FILE.jsonl --update docs/research/annotating.md
"""

import argparse

NAME, DRAWS = 'annotator', 5


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sets', nargs='*', help='folders with images and annotations/{train,val,test}.json')
    parser.add_argument('--out', required=True, metavar='FILE.jsonl', help='file of results, to which rows are added')
    parser.add_argument('--splits', nargs='+', default=['train'], help='splits to label (default: train)')
    parser.add_argument('--images', type=int, metavar='N', help='label N evenly spaced images (default: all)')
    parser.add_argument(
        '--by-hand', nargs='+', type=int, default=[1, 3, 10], metavar='K', help='images drawn first (default: 1 3 10)'
    )
    parser.add_argument(
        '--seeds', type=int, default=DRAWS, metavar='N', help='draws of these images (default: %(default)s)'
    )
    parser.add_argument('--checkpoint', default='lite', help='released weights (default: %(default)s)')
    parser.add_argument('--update', metavar='FILE.md', help=f'write the table between <!-- {NAME}:begin --> and :end')
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.inference import DINOR1Inferencer
    from dinor1.studies.annotated_images import shown_set
    from dinor1.studies.annotator_study import annotator_table, measure_annotator
    from dinor1.studies.draws import measure_missing_draws
    from dinor1.studies.results import read_rows
    from dinor1.studies.study import insert
    from dinor1.utils.errors import InputError

    # Check the options.
    if min([args.seeds, *args.by_hand, args.images or 1]) < 1:
        raise InputError('--seeds, --by-hand and --images must be at least 1')
    # Measure the missing draws.
    if args.sets:
        inferencer = DINOR1Inferencer(checkpoint=args.checkpoint)

        def measure(root: str, num_drawn: int, seed: int) -> dict:
            command = f'python tools/analysis_tools/simulated_annotator.py {shown_set(root)} --out {args.out}'
            command += '' if args.images is None else f' --images {args.images}'
            result = measure_annotator(root, inferencer, num_drawn, seed, args.splits, args.images)
            return result | dict(num_drawn=num_drawn, splits=args.splits, command=command, checkpoint=args.checkpoint)

        runs = [(root, k, seed) for seed in range(args.seeds) for root in args.sets for k in args.by_hand]
        measure_missing_draws(args.out, runs, measure, progress=lambda line: print(line, flush=True))
    # Make the table.
    text = annotator_table(read_rows(args.out))
    if args.update:
        insert(args.update, NAME, text)
    print(text)


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
