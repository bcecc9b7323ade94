"""Generate the shapes world, the data set of the first demonstration, in COCO format.

Examples:
    python tools/dataset_converters/make_shapes.py
    python tools/dataset_converters/make_shapes.py --out data/shapes_small --num-train 200 --seed 1
"""

import argparse
import signal
import sys

import dinor1
from dinor1.cli.exit_status import one_line_errors


def parse_args() -> argparse.Namespace:
    from dinor1.datasets.shapes_world import DEFAULT_SIZES

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('--out', default='data/shapes', help='folder of the data set (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same bytes (default: %(default)s)')
    for split, size in DEFAULT_SIZES.items():
        parser.add_argument(
            f'--num-{split.replace("_", "-")}',
            dest=split,
            type=int,
            default=size,
            metavar='N',
            help=f'images in {split} (default: %(default)s)',
        )
    parser.add_argument(
        '--force',
        action='store_true',
        help='replace a shapes world of other arguments (default: refuse)',
    )
    return parser.parse_args()


def main() -> None:
    # Before MMDetection is imported, as by every module of data sets.
    dinor1.register_all()
    args = parse_args()

    from dinor1.datasets.shapes_world import CATEGORIES, DEFAULT_SIZES, generate

    sizes = {split: getattr(args, split) for split in DEFAULT_SIZES}
    # A termination unwinds the stack like an error does, which removes the unfinished folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    written = generate(args.out, args.seed, sizes, force=args.force, show_progress=True)
    found = 'written to' if written else 'already there, nothing to do:'
    print(f'{sum(sizes.values())} images, {len(CATEGORIES)} categories {found} {args.out}')


if __name__ == '__main__':
    with one_line_errors():
        main()
