#!/usr/bin/env python
"""Compute the AP50 of the echo under plain Visual-I: the baseline that returns only its prompt boxes.

The tool reads annotations only.

Examples:
    python tools/analysis_tools/echo_floor.py data/raccoon data/bccd --split test
    python tools/analysis_tools/echo_floor.py data/raccoon --split test --update docs/research/small_photographs.md
"""

import argparse
from pathlib import Path

NAME = 'echo'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sets', nargs='+', help='folders with images and annotations/SPLIT.json')
    parser.add_argument(
        '--split', nargs='+', default=['val', 'test'], help='splits that are read as one set (default: val test)'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the draw of prompts (default: %(default)s)')
    parser.add_argument('--update', metavar='FILE.md', help=f'write the table between <!-- {NAME}:begin --> and :end')
    return parser.parse_args()


def floor_table(sets: list[str], splits: list[str], seed: int) -> str:
    """Table with a row per set, and their mean: images, images with two instances of a class, AP50 over all classes.

    Raises:
        InputError: none of the splits of a set exists.
    """
    from dinor1.evaluation import draw_interactive
    from dinor1.evaluation.echo import echo_detections
    from dinor1.evaluation.visual_interactive_metric import visual_interactive_scores
    from dinor1.studies.protocol_baselines import SmallSet
    from dinor1.utils.markdown import table

    # Score the echo on each set.
    rows, values = [], []
    for root in sets:
        own = SmallSet.read(root, splits)
        drawn = draw_interactive(own.dataset, seed)
        draw = (echo_detections(drawn), drawn)
        scores = visual_interactive_scores(own.content, [draw], own.category_ids, min_images=1)
        counts = [f'{scores["plain_images"]:.0f}', f'{scores["without_exemplar_images"]:.0f}']
        rows.append([Path(root).name, *counts, f'{scores["echo_AP50"]:.3f}'])
        values.append(scores['echo_AP50'])
    # Add the mean over the sets.
    if len(rows) > 1:
        rows.append(['**mean**', '', '', f'{sum(values) / len(values):.3f}'])
    return table(['set', 'images', 'with a second instance of a class', 'echo AP50'], rows)


def main() -> None:
    args = parse_args()

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.studies.study import insert

    text = floor_table(args.sets, args.split, args.seed)
    if args.update:
        insert(args.update, NAME, text)
    print(text)


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
