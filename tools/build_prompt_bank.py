#!/usr/bin/env python
"""Embed a few instances of every class of a data set once, to prompt with them on any image later.

Examples:
    python tools/build_prompt_bank.py CONFIG CKPT --out bank.safetensors
    python tools/build_prompt_bank.py CONFIG CKPT --out bank.safetensors --num-exemplars 4 --seed 1
"""

import argparse
import sys

from dinor1.cli.options import ConfigOptions


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', help='config file; its prompt_dataset is what exemplars are drawn from')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', required=True, metavar='FILE.safetensors', help='prompt bank to write')
    parser.add_argument(
        '--num-exemplars', type=int, default=16, help='instances per class, at most (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the draw (default: %(default)s)')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the GPU if there is one)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='override settings of the config',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmengine.utils import ProgressBar

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.evaluation import build_bank, draw_exemplars
    from dinor1.inference.inferencer import DINOR1Inferencer
    from dinor1.registry import DATASETS
    from dinor1.utils.config import load_config
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import check_output

    if not args.out.endswith('.safetensors'):
        raise InputError(f'--out {args.out}: expected a file name that ends in .safetensors')
    check_output(args.out, '--out')
    cfg = load_config(args.config, args.cfg_options)
    if 'prompt_dataset' not in cfg:
        raise InputError(f'{args.config}: has no prompt_dataset to draw exemplars from; add one, as shapes.py has')
    model = DINOR1Inferencer(cfg, args.checkpoint, args.device).model
    dataset = DATASETS.build(cfg.prompt_dataset)
    exemplars = draw_exemplars(dataset, args.num_exemplars, args.seed)
    bar = ProgressBar(len({e.index for e in exemplars}), file=sys.stdout)
    try:
        bank = build_bank(model, dataset, exemplars, progress=bar.update)
    finally:
        print()  # The bar leaves the cursor on its line.
    bank.save(args.out)
    missing = [name for name in dataset.metainfo['classes'] if name not in bank.names]
    if missing:
        print(f'Without an instance, and so not in the bank: {", ".join(missing)}')
    print(f'Prompt bank of {len(bank.names)} classes, {sum(bank.num_exemplars)} exemplars: {args.out}')


if __name__ == '__main__':
    from dinor1.cli.run_tool import run_tool

    run_tool(main)
