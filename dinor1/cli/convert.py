r"""Convert annotation files.

Examples:
    dinor1 convert coco2odvg data/coco/annotations/instances_train2017.json train_od.jsonl
    dinor1 convert lvis2odvg data/coco/annotations/lvis_v1_train.json lvis_v1_train_od.jsonl
    dinor1 convert objects365 zhiyuan_objv2_train.json \
        data/objects365v2/annotations/objects365_train.json --img-dir data/objects365v2/train

ODVG has one line per image, and a label map with the class names. Crowd, ignored and defective boxes are counted and
left out, because ODVG cannot mark them. Images of LVIS are named by their path below COCO's root, such as
train2017/000000000009.jpg. ODVG has no field for the categories that LVIS lists as absent from an image or as
incompletely annotated: use the result for training only.

objects365 converts an official Objects365 file, of version 1 or 2, to the format that the data set config reads. It
corrects category names and file names, leaves out images without a file and boxes without area, and clips boxes.
"""

import argparse
from pathlib import Path

from dinor1.annotations import format_counts, read
from dinor1.annotations.convert import to_odvg
from dinor1.annotations.objects365 import convert
from dinor1.utils.errors import InputError
from dinor1.utils.io import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    conversions = parser.add_subparsers(dest='conversion', required=True, metavar='CONVERSION')
    for name, source_format in (('coco2odvg', 'COCO'), ('lvis2odvg', 'LVIS')):
        odvg = conversions.add_parser(name, help=f'{source_format} to ODVG', allow_abbrev=False)
        odvg.add_argument('source', type=Path, metavar='IN.json', help=f'{source_format} file')
        odvg.add_argument('out', type=Path, metavar='OUT.jsonl', help='ODVG file to write')
        odvg.add_argument(
            '--label-map',
            type=Path,
            metavar='FILE',
            help='label map to write (default: OUT_label_map.json next to OUT)',
        )
        odvg.set_defaults(source_format=source_format)
    official = conversions.add_parser('objects365', help='official Objects365 file to COCO', allow_abbrev=False)
    official.add_argument('source', type=Path, metavar='IN.json', help='official annotation file')
    official.add_argument('out', type=Path, metavar='OUT.json', help='file to write')
    official.add_argument('--img-dir', type=Path, metavar='DIR', help='leave out images that have no file below DIR')
    official.add_argument('--keep-names', action='store_true', help='keep the official category names, typos included')


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.conversion == 'objects365':
        _objects365(args)
        return
    lines, left_out = to_odvg(args.source, args.out, args.source_format, args.label_map)
    print(f'{lines:,} images written to {args.out}; left out: {format_counts(left_out)}')


def _objects365(args: argparse.Namespace) -> None:
    # Check the paths before the input is read.
    if args.source.resolve() == args.out.resolve():
        raise InputError(f'{args.out}: is the input itself; give another path')
    if args.img_dir is not None and not args.img_dir.is_dir():
        raise InputError(f'{args.img_dir}: no such folder; correct --img-dir')
    # Convert, write and report.
    data, counts = convert(read(args.source), args.img_dir, not args.keep_names)
    write_json(data, args.out)
    sizes = ', '.join(f'{len(data[section]):,} {section}' for section in ('images', 'annotations', 'categories'))
    print(f'{sizes} written to {args.out}; corrected or left out: {format_counts(counts)}')
