"""Tune a prompt bank on a few annotated images; keep the result only if it is better on images that are left out.

Examples:
    dinor1 adapt corrected.json --out adapted.safetensors
    dinor1 adapt corrected.json --config CONFIG --checkpoint CKPT --bank bank.safetensors --out adapted.safetensors

Without --config and --checkpoint, the released detector for photographs is used.

The annotations are a COCO or ODVG file, such as a corrected file of `dinor1 detect --export coco`. All objects of the
prompts' classes must have boxes on these images. The weights of the model do not change. With --parts head, a few
parameters between the decoder and the classification are tuned too. They are written to a second file,
FILE_head.safetensors, for `dinor1 detect --head`; this needs at least three images. If the result is not better, no
file is written and the exit status is 1. With fewer than three images there is no check, and the result is always kept.
"""

import argparse
import sys
from pathlib import Path

from dinor1 import inference
from dinor1.cli.options import add_detector, require_at_least, require_detector
from dinor1.utils.errors import InputError
from dinor1.utils.io import check_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('annotations', type=Path, metavar='JSON', help='annotation file')
    add_detector(parser)
    parser.add_argument('--bank', metavar='FILE', help='prompt bank to start from (default: only the boxes)')
    parser.add_argument('--out', required=True, metavar='FILE.safetensors', help='prompt bank to write')
    parser.add_argument(
        '--img-dir', type=Path, metavar='DIR', help='folder to which file names are relative (default: searched)'
    )
    parser.add_argument(
        '--parts', choices=('embeddings', 'head'), default='embeddings', help='what is tuned (default: %(default)s)'
    )
    parser.add_argument('--head', metavar='FILE', help='tuned head to start from')
    parser.add_argument('--steps', type=int, help='steps of the optimizer (default: 30; 10 for one or two images)')
    parser.add_argument('--lr', type=float, default=0.01, help='learning rate (default: %(default)s)')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the GPU if there is one)')


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    # Check the input first, because loading the model takes several seconds.
    require_at_least(1, args, 'steps')
    require_at_least(0, args, 'lr')
    require_detector(args)
    if not args.out.endswith('.safetensors'):
        raise InputError(f'--out {args.out}: expected a file name that ends in .safetensors')
    check_output(args.out, '--out')
    annotated = inference.read_annotated(args.annotations, args.img_dir)
    # Adapt.
    inferencer = inference.DINOR1Inferencer(args.config, args.checkpoint, args.device)
    if args.head is not None:
        inferencer.load_head(args.head)
    if args.bank is not None:
        inferencer.set_prompts(bank=args.bank)
    result = inferencer.adapt(annotated.images, annotated.boxes, annotated.names, args.steps, args.lr, args.parts)
    # Write and report.
    if annotated.num_without_boxes:
        print(f'Left out: {annotated.num_without_boxes} images without boxes')
    print(f'Adaptation {result}')
    if not result.kept:
        sys.exit(1)
    # Write the head first, so that a bank never exists without the head that it was tuned with.
    if args.parts == 'head':
        head = f'{args.out.removesuffix(".safetensors")}_head.safetensors'
        inferencer.save_head(head)
        print(f'Tuned head: {head}')
    inferencer.save_bank(args.out)
    print(f'Prompt bank: {args.out}')
