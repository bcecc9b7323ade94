#!/usr/bin/env python
r"""Bring an official Objects365 file, of version 1 or 2, into the form that the data set config reads.

Corrects category names and file names, leaves out images that have no file and boxes without area, and clips boxes.

Examples:
    python tools/dataset_converters/objects365.py zhiyuan_objv2_train.json \
        data/objects365v2/annotations/objects365_train.json --img-dir data/objects365v2/train
"""

from pathlib import Path

from dinor1.annotations import read
from dinor1.annotations.objects365 import convert
from dinor1.cli import annotations as cli
from dinor1.utils.errors import InputError
from dinor1.utils.io import write_json


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument('source', type=Path, metavar='IN.json', help='official annotation file')
    parser.add_argument('out', type=Path, metavar='OUT.json', help='file to write')
    parser.add_argument('--img-dir', type=Path, metavar='DIR', help='leave out images that have no file below DIR')
    parser.add_argument('--keep-names', action='store_true', help='keep the official category names, typos included')
    args = parser.parse_args()
    if args.source.resolve() == args.out.resolve():
        raise InputError(f'{args.out}: is the input itself; give another path')
    if args.img_dir is not None and not args.img_dir.is_dir():
        raise InputError(f'{args.img_dir}: no such folder; correct --img-dir')
    data, counts = convert(read(args.source), args.img_dir, not args.keep_names)
    write_json(data, args.out)
    sizes = ', '.join(f'{len(data[section]):,} {section}' for section in ('images', 'annotations', 'categories'))
    print(f'{sizes} written to {args.out}; {cli.counts(counts)}')


if __name__ == '__main__':
    cli.run(main)
