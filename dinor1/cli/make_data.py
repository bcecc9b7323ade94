"""Generate a data set in COCO format.

Examples:
    dinor1 make-data shapes
    dinor1 make-data shapes --out data/shapes_small --num-train 200 --seed 1
    dinor1 make-data shapes-warped --split train --variants identity --out data/shapes_canvas
    dinor1 make-data icons
    dinor1 make-data icons --sheet icons.png --sheet-split val_novel

shapes generates the shapes world, the data set of the demonstration. shapes-warped generates rotated, sheared and
scaled copies of its images on a canvas of one size, with exact boxes. icons generates the icon world: 1,650
categories, 450 of them novel, of drawings that pip install 'dinor1[icons]' installs.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from dinor1.datasets.icons.library import load_library
from dinor1.datasets.icons.sheet import contact_sheet
from dinor1.datasets.icons.splits import SPLITS
from dinor1.datasets.icons.world import MANIFEST_NAME, PRESETS
from dinor1.datasets.icons.world import generate as generate_icons
from dinor1.datasets.shapes_warped import VARIANTS, generate_warped
from dinor1.datasets.shapes_world import CATEGORIES, DEFAULT_SIZES, generate
from dinor1.utils.errors import InputError
from dinor1.utils.io import check_output, read_json, write_image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    sets = parser.add_subparsers(dest='dataset', required=True, metavar='DATASET')
    # Add the shapes world.
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
        '--force', action='store_true', help='replace a shapes world with other settings (default: an error)'
    )
    shapes.set_defaults(make=_make_shapes)
    # Add its warped copies.
    warped = sets.add_parser('shapes-warped', help='warped copies of images of the shapes world', allow_abbrev=False)
    warped.add_argument('--out', default='data/shapes_warped', help='folder to make (default: %(default)s)')
    warped.add_argument('--variants', nargs='+', choices=list(VARIANTS), default=list(VARIANTS), help='default: all')
    warped.add_argument(
        '--split', choices=['val_base', 'train'], default='val_base', help='split to warp (default: %(default)s)'
    )
    warped.add_argument('--size', type=int, help='number of images (default: all of the split)')
    warped.add_argument('--seed', type=int, default=0, help='seed of the shapes world (default: %(default)s)')
    warped.set_defaults(make=_make_warped)
    # Add the icon world.
    icons = sets.add_parser('icons', help="the icon world; needs pip install 'dinor1[icons]'", allow_abbrev=False)
    icons.add_argument('--out', default='data/icons', help='folder of the data set (default: %(default)s)')
    icons.add_argument(
        '--preset',
        choices=list(PRESETS),
        default='small',
        help='4,000 training images of 160 to 192 pixels, or 50,000 of 224 to 256 (default: %(default)s)',
    )
    icons.add_argument('--seed', type=int, default=0, help='of the images (default: %(default)s)')
    icons.add_argument(
        '--sizes',
        nargs='+',
        default=[],
        metavar='SPLIT=N',
        help=f'numbers of images that differ from the preset; splits: {", ".join(SPLITS)}',
    )
    icons.add_argument(
        '--workers', type=int, default=os.cpu_count() or 1, help='number of processes (default: one per core)'
    )
    icons.add_argument('--cache', metavar='DIR', help="rendered drawings (default: in the user's cache folder)")
    icons.add_argument(
        '--force', action='store_true', help='replace an icon world with other arguments (default: an error)'
    )
    icons.add_argument(
        '--sheet', metavar='FILE.png', help='draw the concepts of a split with their drawings, and no data set'
    )
    icons.add_argument('--sheet-split', default='test_novel', metavar='SPLIT', help='default: %(default)s')
    icons.set_defaults(make=_make_icons)


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


def _make_icons(args: argparse.Namespace) -> None:
    # Draw a contact sheet, and no data set.
    if args.sheet is not None:
        check_output(args.sheet, '--sheet')
        if args.sheet_split not in SPLITS:
            raise InputError(f'--sheet-split {args.sheet_split}: unknown split; choose one of {", ".join(SPLITS)}')
        library = load_library(args.cache, args.workers, show_progress=True)
        write_image(contact_sheet(library, args.sheet_split), args.sheet)
        concepts = library.splits.categories(args.sheet_split)
        print(f'{len(concepts)} concepts of {args.sheet_split}: {args.sheet}')
        return
    # Write the data set.
    sizes = dict(_parse_size(text) for text in args.sizes)
    written = generate_icons(
        args.out,
        args.preset,
        args.seed,
        sizes,
        force=args.force,
        show_progress=True,
        workers=args.workers,
        cache=args.cache,
    )
    # Report its statistics.
    manifest = read_json(Path(args.out, MANIFEST_NAME))
    print(f'{"split":26}{"images":>8}{"concepts":>10}{"instances":>11}{"each":>10}')
    for split, counts in manifest['statistics'].items():
        each = '{}-{}'.format(*counts['instances_per_category'])
        print(f'{split:26}{counts["images"]:8}{counts["categories"]:10}{counts["instances"]:11}{each:>10}')
    frequencies = manifest['statistics']['train']['frequencies']
    print('training concepts: {r} rare, {c} common, {f} frequent'.format(**frequencies))
    pairs = ', '.join(f'{pair} {iou:.4f}' for pair, iou in manifest['largest_silhouette_iou'].items())
    print(f'largest silhouette IoU: {pairs}')
    found = 'written to' if written else 'already there, nothing to do:'
    images = sum(counts['images'] for counts in manifest['statistics'].values())
    print(f'{images} images {found} {args.out}')


def _parse_size(text: str) -> tuple[str, int]:
    split, _, number = text.partition('=')
    if not number.strip().isdigit():
        raise InputError(f'--sizes {text}: is not SPLIT=N, such as train=400')
    return split, int(number)
