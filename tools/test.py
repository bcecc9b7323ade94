#!/usr/bin/env python
"""Test a checkpoint with the prompts that the config names.

Examples:
    python tools/test.py configs/dino_r1/dino-r1_nano_1xb8_6e_shapes.py work_dirs/run1/epoch_6.pth
    python tools/test.py CONFIG CHECKPOINT --cfg-options default_hooks.prompts.seed=1
"""

import argparse
import os
import sys
from pathlib import Path

from mmengine.config import DictAction


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--work-dir', help='where metrics and pictures go (default: folder of the checkpoint, /test_CONFIG)'
    )
    parser.add_argument('--out', metavar='FILE.pkl', help='also write the raw predictions')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings of the config'
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher (default: none)'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))

    from mmengine.runner import Runner

    import dinor1
    from dinor1.apis import check_checkpoint, load_config
    from dinor1.errors import InputError
    from dinor1.fileio import write_json

    dinor1.register_all()
    cfg = load_config(args.config, args.cfg_options)
    # Before the runner makes the work directory, which lies beside the checkpoint.
    if '://' not in args.checkpoint and not Path(args.checkpoint).is_file():
        raise InputError(f'{args.checkpoint}: no such checkpoint')
    cfg.launcher = args.launcher
    cfg.load_from, cfg.resume = args.checkpoint, False
    cfg.work_dir = args.work_dir or str(Path(args.checkpoint).parent / f'test_{Path(args.config).stem}')
    if args.out:
        if not args.out.endswith(('.pkl', '.pickle')):
            raise InputError(f'--out {args.out}: expected a file name that ends in .pkl')
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        cfg.test_evaluator = [*evaluators, dict(type='DumpDetResults', out_file_path=args.out)]
    # Test needs no optimizer, and a config for training brings one.
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None

    runner = Runner.from_cfg(cfg)
    check_checkpoint(runner.model, args.checkpoint)
    metrics = runner.test()
    if runner.rank == 0:
        prompts = cfg.default_hooks.get('prompts') or {}
        record = dict(
            config=args.config,
            checkpoint=args.checkpoint,
            command=' '.join(sys.argv),
            ann_file=str(getattr(runner.test_dataloader.dataset, 'ann_file', '')),
            protocol={k: prompts.get(k) for k in ('protocol', 'num_exemplars', 'seed') if k in prompts},
            metrics=metrics,
        )
        write_json(record, Path(runner.work_dir) / 'metrics.json', indent=2)
        print(f'Metrics and pictures: {runner.work_dir}')


if __name__ == '__main__':
    from dinor1.apis.cli import run_tool

    run_tool(main)
