"""Embed a few instances of every class of a data set, and write them to a prompt bank for use on any image.

Examples:
    dinor1 bank CONFIG CKPT --out bank.safetensors
    dinor1 bank CONFIG CKPT --out bank.safetensors --num-exemplars 4 --seed 1
"""

import argparse

from dinor1 import inference
from dinor1.cli.options import add_cfg_options, add_checkpoint, add_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_config(parser, 'config file or name; exemplars are drawn from its prompt_dataset')
    add_checkpoint(parser)
    parser.add_argument('--out', required=True, metavar='FILE.safetensors', help='prompt bank to write')
    parser.add_argument(
        '--num-exemplars', type=int, default=16, help='instances per class, at most (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the draw (default: %(default)s)')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the GPU if there is one)')
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    bank, missing = inference.write_dataset_bank(
        args.config, args.checkpoint, args.out, args.num_exemplars, args.seed, args.device, args.cfg_options
    )
    if missing:
        print(f'Classes without an instance, left out of the bank: {", ".join(missing)}')
    print(f'Prompt bank of {len(bank.names)} classes, {sum(bank.num_exemplars)} exemplars: {args.out}')
