"""Test a checkpoint with the prompts that the config names.

Examples:
    dinor1 test dino_r1/dino-r1_nano_1xb8_6e_shapes work_dirs/run1/epoch_6.pth
    dinor1 test CONFIG CHECKPOINT --prompt-seeds 5
    dinor1 test CONFIG CHECKPOINT --amp bfloat16 --compile
    dinor1 test CONFIG CHECKPOINT --show-dir drawings --tta
    dinor1 test CONFIG CHECKPOINT --cfg-options test_cfg.prompts.type=VisualInteractive
"""

import argparse

from dinor1 import engine
from dinor1.cli.options import add_checkpoint, add_config, add_data, add_run_options, set_local_rank


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_config(parser)
    add_checkpoint(parser)
    add_data(parser, 'test')
    parser.add_argument(
        '--work-dir', help='folder for metrics and images (default: test_CONFIG next to the checkpoint)'
    )
    parser.add_argument(
        '--prompt-seeds',
        type=int,
        default=1,
        metavar='N',
        help='repeat with N draws of the visual prompts, and report mean and standard deviation (default: 1)',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='bfloat16',
        choices=['bfloat16'],
        help='mixed precision, on a CPU or a GPU; boxes and scores stay in float32 (default: off)',
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help='compile the model; needs a C++ compiler; faster if the images have few sizes',
    )
    parser.add_argument('--out', metavar='FILE.pkl', help='also write the raw predictions')
    parser.add_argument('--show-dir', metavar='DIR', help='write all test images with their detections to DIR')
    parser.add_argument(
        '--tta', action='store_true', help="test-time augmentation: the config's, or mirror images without one"
    )
    add_run_options(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    set_local_rank(args)
    options = engine.TestOptions(args.prompt_seeds, args.amp, args.compile, args.out, args.show_dir, args.tta)
    engine.evaluate(args.config, args.checkpoint, args.work_dir, args.cfg_options, args.launcher, options, args.data)
