#!/usr/bin/env python
"""Write rotated, sheared and scaled copies of images of the shapes world, with exact boxes, on one canvas.

Examples:
    python tools/dataset_converters/warp_shapes.py
    python tools/dataset_converters/warp_shapes.py --split train --variants identity --out data/shapes_canvas
    python tools/dataset_converters/warp_shapes.py --out data/shapes_turned --variants identity rotation-45 --size 50
"""

import argparse

import dinor1
from dinor1.cli.run_tool import run_tool


def main() -> None:
    # Before MMDetection is imported, as by every module of data sets.
    dinor1.register_all()

    from dinor1.datasets.shapes_warped import VARIANTS, generate_warped
    from dinor1.datasets.shapes_world import DEFAULT_SIZES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='data/shapes_warped', help='new folder (default: %(default)s)')
    parser.add_argument('--variants', nargs='+', choices=list(VARIANTS), default=list(VARIANTS), help='default: all')
    parser.add_argument(
        '--split', choices=['val_base', 'train'], default='val_base', help='which images (default: %(default)s)'
    )
    parser.add_argument('--size', type=int, help='how many (default: all of the split)')
    parser.add_argument('--seed', type=int, default=0, help='of the shapes world (default: %(default)s)')
    args = parser.parse_args()
    size = DEFAULT_SIZES[args.split] if args.size is None else args.size
    generate_warped(args.out, args.variants, args.split, size, args.seed, show_progress=True)
    print(f'{size} images under each of {", ".join(args.variants)}: {args.out}')


if __name__ == '__main__':
    run_tool(main)
