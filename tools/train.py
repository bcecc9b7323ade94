#!/usr/bin/env python
"""Train a model.

Examples:
    python tools/train.py configs/dino_r1/dino-r1_nano_1xb8_6e_shapes.py
    python tools/train.py CONFIG --work-dir work_dirs/run1 --resume --cfg-options model.bbox_head.loss_grqo.alpha=0.1
"""

import argparse
from pathlib import Path

from dinor1.cli.options import parse_run_args


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs, checkpoints and pictures go (default: work_dirs/CONFIG)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from CHECKPOINT, or from the latest one in the work directory if none is named',
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
    return parse_run_args(parser)


def main() -> None:
    args = parse_args()

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.datasets.seeding import set_seed
    from dinor1.engine.cpu_ranks import check_launcher
    from dinor1.engine.run_checks import check_seed, check_training
    from dinor1.utils.config import load_config

    cfg = load_config(args.config, args.cfg_options)
    check_launcher(args.launcher)
    check_seed(args.seed, '--seed')
    check_training(cfg, args.config)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    if args.seed is not None:
        cfg.randomness = dict(cfg.get('randomness', {}), seed=args.seed)
        set_seed(cfg.train_dataloader.dataset, args.seed)
    if args.amp:
        use_amp(cfg, args.amp)
    if args.auto_scale_lr:
        scale_learning_rate(cfg)
    if args.resume:
        resume(cfg, args.resume)
    check_start(cfg)
    train(cfg)


def check_start(cfg) -> None:
    """Refuse to start from a checkpoint that is not there, before the work directory is made."""
    from dinor1.utils.errors import InputError

    path = cfg.get('load_from')
    if path and '://' not in path and not Path(path).is_file():
        hint = (
            'check --resume'
            if cfg.get('resume')
            else 'the config starts from it: make it first, as `make demo` does for the recipes of small data sets, '
            'or do without by --cfg-options load_from=None'
        )
        raise InputError(f'{path}: no such checkpoint; {hint}')


def resume(cfg, checkpoint: str) -> None:
    """Continue from ``checkpoint``, or for ``auto`` from the latest one in the work directory, if there is one.

    Without one the run begins as if nothing had been said: with the weights of ``load_from``, which MMEngine would
    forget.
    """
    from mmengine.runner import find_latest_checkpoint

    if checkpoint == 'auto' and find_latest_checkpoint(cfg.work_dir) is None:
        print(f'--resume: no checkpoint in {cfg.work_dir}, this is a new run')
        return
    cfg.resume = True
    cfg.load_from = None if checkpoint == 'auto' else checkpoint


def use_amp(cfg, dtype: str) -> None:
    """Switch the optimizer wrapper to mixed precision."""
    import torch

    from dinor1.utils.errors import InputError

    if not torch.cuda.is_available():
        if dtype != 'bfloat16':
            raise InputError(f'--amp {dtype}: needs a GPU; give --amp bfloat16 on this machine')
        cfg.optim_wrapper.type = 'CPUBFloat16OptimWrapper'
        return
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.dtype = dtype
    if dtype == 'float16':
        cfg.optim_wrapper.loss_scale = 'dynamic'


def scale_learning_rate(cfg) -> None:
    """Let MMEngine scale the learning rate from ``auto_scale_lr.base_batch_size``."""
    from dinor1.utils.errors import InputError

    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise InputError(f'--auto-scale-lr: {cfg.filename} has no auto_scale_lr.base_batch_size; add it')
    cfg.auto_scale_lr.enable = True


def train(cfg) -> None:
    """Train, with the environment beside the log and the starting weights checked."""
    from mmengine.runner import find_latest_checkpoint
    from mmengine.utils.dl_utils import collect_env

    from dinor1.engine.runner import Runner
    from dinor1.utils.checkpoint import check_checkpoint
    from dinor1.utils.io import write_json

    runner = Runner.from_cfg(cfg)
    start = cfg.get('load_from') or (find_latest_checkpoint(cfg.work_dir) if cfg.get('resume') else None)
    if start:
        check_checkpoint(runner.model, start, partial=not cfg.get('resume'), resume=cfg.get('resume', False))
    if runner.rank == 0:
        write_json({k: str(v) for k, v in collect_env().items()}, Path(runner.work_dir) / 'environment.json', indent=2)
    runner.train()
    if runner.rank == 0:
        write_json(last_metrics(runner), Path(runner.work_dir) / 'metrics.json', indent=2)
        print(f'Checkpoints, logs and pictures: {runner.work_dir}')


def last_metrics(runner) -> dict[str, float]:
    """Results of the last validation, and under ``train/`` the last scalars of training."""
    scalars = {name: float(buffer.current()) for name, buffer in runner.message_hub.log_scalars.items()}
    timers = ('val/time', 'val/data_time', 'train/time', 'train/data_time')
    return {name.removeprefix('val/'): value for name, value in scalars.items() if name not in timers}


if __name__ == '__main__':
    from dinor1.cli.run_tool import run_tool

    run_tool(main)
