r"""Label a folder of images in the browser: draw a box around one object, and the detector proposes the others.

Examples:
    dinor1 annotate FOLDER
    dinor1 annotate FOLDER --import annotations.json --port 8000 --no-browser
    dinor1 annotate FOLDER --config CONFIG --checkpoint CKPT --work-dir state

Without --config and --checkpoint, the released detector for photographs is used. The page is served to this machine
only (127.0.0.1) and works without a network. Every change is saved immediately in FOLDER/.dinor1. Exports are written
to that folder too. Ctrl-C stops the server, and the same command continues. Requires: pip install 'dinor1[annotate]'
"""

import argparse
from pathlib import Path

from dinor1 import annotate, inference
from dinor1.cli.options import add_detector, require_at_least, require_detector
from dinor1.utils.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='folder of images; sub-folders are not searched')
    add_detector(parser)
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the GPU if there is one)')
    parser.add_argument('--port', type=int, default=0, help='port of the page (default: a free one)')
    parser.add_argument('--no-browser', action='store_true', help='print the address, but open no browser')
    parser.add_argument(
        '--import',
        dest='annotations',
        type=Path,
        metavar='JSON',
        help='annotation file (COCO or ODVG) whose boxes are added',
    )
    parser.add_argument('--work-dir', type=Path, metavar='DIR', help='folder of the state (default: FOLDER/.dinor1)')


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    require_at_least(0, args, 'port')
    if args.port > 65535:
        raise InputError(f'--port must be at most 65535, got {args.port}')
    require_detector(args)
    annotate.serve(
        args.folder,
        lambda: inference.DINOR1Inferencer(args.config, args.checkpoint, args.device),
        args.work_dir,
        args.port,
        not args.no_browser,
        args.annotations,
    )
