#!/usr/bin/env python
"""Measure `dinor1 adapt`: AP50 on test images, with prompts tuned on a few training images and without tuning.

Both arms use the same boxes. Test images are used for nothing else. Finished draws are not measured again.

Examples:
    python tools/analysis_tools/measure_adaptation.py data/raccoon data/bccd --out results/adapt.jsonl
    python tools/analysis_tools/measure_adaptation.py --out results/adapt.jsonl --update docs/research/annotating.md
"""

import argparse

NAME, DRAWS = 'adapt', 5


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sets', nargs='*', help='folders with images and annotations/{train,test}.json')
    parser.add_argument('--out', required=True, metavar='FILE.jsonl', help='file of results, to which rows are added')
    parser.add_argument(
        '--annotated', nargs='+', type=int, default=[1, 3, 10], metavar='K', help='training images (default: 1 3 10)'
    )
    parser.add_argument(
        '--seeds', type=int, default=DRAWS, metavar='N', help='draws of these images (default: %(default)s)'
    )
    parser.add_argument('--test-images', type=int, default=60, help='maximum number (default: %(default)s)')
    parser.add_argument('--checkpoint', default='lite', help='released weights (default: %(default)s)')
    parser.add_argument('--update', metavar='FILE.md', help=f'write the table between <!-- {NAME}:begin --> and :end')
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.inference import DINOR1Inferencer
    from dinor1.studies.adaptation_study import adaptation_table, measure_adaptation
    from dinor1.studies.annotated_images import shown_set
    from dinor1.studies.draws import measure_missing_draws
    from dinor1.studies.results import read_rows
    from dinor1.studies.study import insert
    from dinor1.utils.errors import InputError

    # Check the options.
    if min([args.seeds, args.test_images, *args.annotated]) < 1:
        raise InputError('--seeds, --annotated and --test-images must be at least 1')
    # Measure the missing draws. The first draw of all sets precedes the second, so that early results cover all sets.
    if args.sets:
        inferencer = DINOR1Inferencer(checkpoint=args.checkpoint)

        def measure(root: str, num_images: int, seed: int) -> dict:
            command = f'python tools/analysis_tools/measure_adaptation.py {shown_set(root)} --out {args.out}'
            command += '' if args.test_images == 60 else f' --test-images {args.test_images}'
            result = measure_adaptation(root, inferencer, num_images, seed, args.test_images)
            return result | dict(num_images=num_images, command=command, checkpoint=args.checkpoint)

        runs = [(root, k, seed) for seed in range(args.seeds) for k in args.annotated for root in args.sets]
        measure_missing_draws(args.out, runs, measure, progress=lambda line: print(line, flush=True))
    # Make the table.
    text = adaptation_table(read_rows(args.out))
    if args.update:
        insert(args.update, NAME, text)
    print(text)


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
