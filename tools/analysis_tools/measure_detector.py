#!/usr/bin/env python
r"""Measure a checkpoint: AP under several protocols, similarity of its prompts, statistics of its queries.

Examples:
    python tools/analysis_tools/measure_detector.py work_dirs/run1/epoch_6.pth --out work_dirs/run1/measures.json \
      --set base=configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes.py \
      --set novel=configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes-novel.py
    python tools/analysis_tools/measure_detector.py CHECKPOINT --set test=CONFIG --num-exemplars 16 --out FILE.json
"""

import argparse
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--set',
        dest='sets',
        action='append',
        required=True,
        metavar='NAME=CONFIG',
        help='evaluate the test set of a config under this name; may be repeated',
    )
    parser.add_argument(
        '--out', required=True, metavar='FILE.json', help='result file; details are written to the folder FILE'
    )
    parser.add_argument(
        '--num-exemplars',
        type=int,
        nargs='+',
        default=[1, 4, 16],
        help='exemplars per class of visual-generic (default: 1 4 16)',
    )
    parser.add_argument('--prompt-seeds', type=int, default=3, help='draws of prompts of each kind (default: 3)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.studies.measure import measure
    from dinor1.utils.config import load_config
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import write_json

    # Check the options.
    wrong = [text for text in args.sets if not all(text.partition('='))]
    if wrong:
        raise InputError(f'--set {wrong[0]}: expected NAME=CONFIG')
    if not Path(args.checkpoint).is_file():
        raise InputError(f'{args.checkpoint}: no such checkpoint')
    # Measure.
    sets = {name: load_config(config) for name, _, config in (text.partition('=') for text in args.sets)}
    result = measure(
        sets,
        args.checkpoint,
        Path(args.out).with_suffix(''),
        args.num_exemplars,
        args.prompt_seeds,
        progress=lambda line: print(line, flush=True),
    )
    write_json(result, args.out, indent=1)
    print(f'Measures: {args.out}')


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
