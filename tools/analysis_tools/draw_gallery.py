#!/usr/bin/env python
r"""Draw what one exemplar finds on each of some annotated images, on one sheet.

The exemplar is a box on the image itself, or with --support a box of the class on another image. Found objects are
green, missed ones red, false detections orange; the exemplar is white. An object is found if a detection overlaps it
with an IoU of at least 0.5.

Examples:
    python tools/analysis_tools/draw_gallery.py ANNOTATIONS.json IMAGES --out gallery.jpg        # the released detector
    python tools/analysis_tools/draw_gallery.py ANNOTATIONS.json IMAGES --out gallery.jpg --model CONFIG CHECKPOINT
    python tools/analysis_tools/draw_gallery.py data/icons/annotations/val_novel.json data/icons/images/val_novel \
        --support data/icons/annotations/support_val_novel.json data/icons/images/support_val_novel \
        --model CONFIG CHECKPOINT --out gallery.jpg
"""

import argparse
import sys


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', help='COCO annotation file')
    parser.add_argument('images', help='folder of its images')
    parser.add_argument('--out', required=True, metavar='FILE', help='image file of the sheet')
    parser.add_argument(
        '--model', nargs=2, metavar=('CONFIG', 'CHECKPOINT'), default=(None, None), help='default: the released weights'
    )
    parser.add_argument(
        '--support', nargs=2, metavar=('FILE.json', 'FOLDER'), help='draw exemplars from these annotations and images'
    )
    parser.add_argument('--number', type=int, default=24, help='images (default: %(default)s)')
    parser.add_argument('--columns', type=int, default=6, help='images per row (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of images and exemplars (default: %(default)s)')
    parser.add_argument('--score-thr', type=float, default=0.3, help='minimum score (default: %(default)s)')
    parser.add_argument(
        '--nms-thr', type=float, default=0.7, help='remove repeated detections above this IoU (default: %(default)s)'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.inference import DINOR1Inferencer
    from dinor1.studies.gallery import draw_targets, gallery, read_annotated
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import check_output, write_image
    from dinor1.visualization import contact_sheet

    # Check the options.
    for option, value in (('--number', args.number), ('--columns', args.columns)):
        if value < 1:
            raise InputError(f'{option} must be at least 1, got {value}')
    check_output(args.out, '--out')
    # Choose the images: besides an exemplar on the image there is an object to find.
    annotated = read_annotated(args.annotations, args.images)
    support = read_annotated(*args.support) if args.support else []
    if support:
        names = {item.name for item in support}
        annotated = [item for item in annotated if item.name in names]
    targets = draw_targets(annotated, args.number, args.seed, min_boxes=1 if support else 2)
    # Detect and draw.
    inferencer = DINOR1Inferencer(*args.model)
    tiles, found, missed, false = [], 0, 0, 0
    for tile, objects in gallery(inferencer, targets, support, args.seed, args.score_thr, args.nms_thr):
        tiles.append(tile)
        found, missed = found + len(objects.found), missed + len(objects.missed)
        false += len(objects.false)
        if sys.stderr.isatty():
            print(f'\r{len(tiles)} of {len(targets)} images', end='', file=sys.stderr)
    write_image(contact_sheet(tiles, args.columns), args.out)
    print(f'{len(tiles)} images: found {found} of {found + missed} objects, {false} false detections')
    print(f'Gallery: {args.out}')


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
