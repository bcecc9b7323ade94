"""Train a model.

Examples:
    dinor1 train lite/fine-tune --data FOLDER
    dinor1 train dino_r1/dino-r1_nano_1xb8_6e_shapes
    dinor1 train CONFIG --work-dir work_dirs/run1 --resume --cfg-options model.bbox_head.loss_grqo.alpha=0.1
"""

import argparse

from dinor1 import engine
from dinor1.cli.options import add_config, add_data, add_run_options, set_local_rank


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_config(parser)
    add_data(parser, 'train')
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and images (default: work_dirs/CONFIG)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from CHECKPOINT (default of the option: the latest one in the work directory)',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='float16',
        choices=['float16', 'bfloat16'],
        help='mixed precision (default of the option: float16, which needs a GPU)',
    )
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the total batch size'
    )
    parser.add_argument('--seed', type=int, help="random seed (default: the config's)")
    add_run_options(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    set_local_rank(args)
    engine.train(
        args.config,
        args.work_dir,
        args.cfg_options,
        resume=args.resume,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        seed=args.seed,
        launcher=args.launcher,
        data=args.data,
    )
