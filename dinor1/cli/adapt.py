"""Tune a prompt bank on a few annotated images, and keep the result only if it is better on images left out.

Examples:
    dinor1 adapt corrected.json --config CONFIG --checkpoint CKPT --out adapted.safetensors
    dinor1 adapt corrected.json --config CONFIG --checkpoint CKPT --bank bank.safetensors --out adapted.safetensors

The annotations are a COCO or ODVG file, such as one of `dinor1 detect --export coco` after correction. All objects of
the prompts' classes must have boxes on these images. The weights of the model do not change. If the result is not
better, no file is written and the status is 1. Fewer than three images cannot be checked: their result is always kept.
"""

import argparse
import sys
from pathlib import Path

from dinor1 import inference
from dinor1.cli.options import complete_config, require_at_least
from dinor1.utils.errors import InputError
from dinor1.utils.io import check_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('annotations', type=Path, metavar='JSON', help='annotation file')
    config = parser.add_argument('--config', required=True, help='config that the checkpoint was trained with')
    config.completer = complete_config  # type: ignore[attr-defined]
    parser.add_argument('--checkpoint', required=True, help='checkpoint file')
    parser.add_argument('--bank', metavar='FILE', help='prompt bank to start from (default: the boxes alone)')
    parser.add_argument('--out', required=True, metavar='FILE.safetensors', help='prompt bank to write')
    parser.add_argument(
        '--img-dir', type=Path, metavar='DIR', help='folder that file names are relative to (default: searched)'
    )
    parser.add_argument('--steps', type=int, help='steps of the optimizer (default: 30; 10 for one or two images)')
    parser.add_argument('--lr', type=float, default=0.01, help='learning rate (default: %(default)s)')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the GPU if there is one)')


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    # Check the input before the model is loaded, which takes a while.
    require_at_least(1, args, 'steps')
    require_at_least(0, args, 'lr')
    if not args.out.endswith('.safetensors'):
        raise InputError(f'--out {args.out}: expected a file name that ends in .safetensors')
    check_output(args.out, '--out')
    annotated = inference.read_annotated(args.annotations, args.img_dir)
    # Adapt.
    inferencer = inference.DINOR1Inferencer(args.config, args.checkpoint, args.device)
    if args.bank is not None:
        inferencer.set_prompts(bank=args.bank)
    result = inferencer.adapt(annotated.images, annotated.boxes, annotated.names, args.steps, args.lr)
    # Write and report.
    if annotated.num_without_boxes:
        print(f'Left out: {annotated.num_without_boxes} images without boxes')
    print(f'Adaptation {result}')
    if not result.kept:
        sys.exit(1)
    inferencer.save_bank(args.out)
    print(f'Prompt bank: {args.out}')
