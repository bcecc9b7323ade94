"""Generate a data set in COCO format.

Examples:
    dinor1 make-data shapes
    dinor1 make-data shapes --out data/shapes_small --num-train 200 --seed 1
    dinor1 make-data shapes-warped --split train --variants identity --out data/shapes_canvas

shapes generates the shapes world, the data set of the demonstration. shapes-warped generates rotated, sheared and
scaled copies of its images on a canvas of one size, with exact boxes.
"""

import argparse
import signal
import sys

from dinor1.datasets.shapes_warped import VARIANTS, generate_warped
from dinor1.datasets.shapes_world import CATEGORIES, DEFAULT_SIZES, generate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    sets = parser.add_subparsers(dest='dataset', required=True, metavar='DATASET')
    shapes = sets.add_parser('shapes', help='the shapes world', allow_abbrev=False)
    shapes.add_argument('--out', default='data/shapes', help='folder of the data set (default: %(default)s)')
    shapes.add_argument(
        '--seed', type=int, default=0, help='random seed; the same seed gives the same files (default: %(default)s)'
    )
    for split, size in DEFAULT_SIZES.items():
        shapes.add_argument(
            f'--num-{split.replace("_", "-")}',
            dest=split,
            type=int,
            default=size,
            metavar='N',
            help=f'images in {split} (default: %(default)s)',
        )
    shapes.add_argument(
        '--force', action='store_true', help='replace a shapes world with other settings (default: refuse)'
    )
    shapes.set_defaults(make=_make_shapes)
    warped = sets.add_parser('shapes-warped', help='warped copies of images of the shapes world', allow_abbrev=False)
    warped.add_argument('--out', default='data/shapes_warped', help='folder to make (default: %(default)s)')
    warped.add_argument('--variants', nargs='+', choices=list(VARIANTS), default=list(VARIANTS), help='default: all')
    warped.add_argument(
        '--split', choices=['val_base', 'train'], default='val_base', help='split to warp (default: %(default)s)'
    )
    warped.add_argument('--size', type=int, help='number of images (default: all of the split)')
    warped.add_argument('--seed', type=int, default=0, help='seed of the shapes world (default: %(default)s)')
    warped.set_defaults(make=_make_warped)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    # Turn SIGTERM into an exception, so that the unfinished folder is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    args.make(args)


def _make_shapes(args: argparse.Namespace) -> None:
    sizes = {split: getattr(args, split) for split in DEFAULT_SIZES}
    written = generate(args.out, args.seed, sizes, force=args.force, show_progress=True)
    found = 'written to' if written else 'already there, nothing to do:'
    print(f'{sum(sizes.values())} images, {len(CATEGORIES)} categories {found} {args.out}')


def _make_warped(args: argparse.Namespace) -> None:
    size = DEFAULT_SIZES[args.split] if args.size is None else args.size
    generate_warped(args.out, args.variants, args.split, size, args.seed, show_progress=True)
    print(f'{size} images under each of {", ".join(args.variants)}: {args.out}')
