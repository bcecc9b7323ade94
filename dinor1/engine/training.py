"""Train from a config, as ``dinor1 train`` does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint
from mmengine.utils.dl_utils import collect_env

from dinor1.datasets.seeding import set_seed
from dinor1.engine.cpu_ranks import check_launcher
from dinor1.engine.data_folder import use_folder
from dinor1.engine.run_checks import check_seed, check_training
from dinor1.engine.runner import Runner
from dinor1.engine.training_data import left_out_lines
from dinor1.utils.checkpoint import check_checkpoint
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError
from dinor1.utils.io import visible, write_json

_TIMERS = ('val/time', 'val/data_time', 'train/time', 'train/data_time')


def train(
    config: str | Path,
    work_dir: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    resume: str | None = None,
    amp: str | None = None,
    auto_scale_lr: bool = False,
    seed: int | None = None,
    launcher: str = 'none',
    data: str | Path | None = None,
) -> dict[str, float]:
    """Train a model.

    Config, logs, checkpoints, ``environment.json`` and ``metrics.json`` are written to the work directory.

    Args:
        config: Config file, or the name of one that comes with dinor1, see
            :func:`dinor1.utils.config_files.find_config`.
        work_dir: Work directory. Default: that of the config, or ``work_dirs/<name of the config>``.
        cfg_options: Settings of the config to override, by dotted key.
        resume: Checkpoint to continue from; ``'auto'``: the latest checkpoint in the work directory, if any.
        amp: Mixed precision, ``'float16'`` (GPUs only) or ``'bfloat16'``.
        auto_scale_lr: Whether to scale the learning rate with the total batch size.
        seed: Random seed. Default: that of the config.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        data: Folder of annotated images to train on instead of the config's data sets, see
            :func:`~dinor1.engine.data_folder.use_folder`.

    Returns:
        Results of the last validation, and under ``train/`` the last scalars of training.

    Raises:
        InputError: the config, an option or a checkpoint is invalid.
    """
    # Check config and options, before the work directory is made.
    cfg = load_config(config, cfg_options)
    name = str(config)
    if data is not None:
        use_folder(cfg, data, name)
    check_launcher(launcher)
    check_seed(seed, '--seed')
    check_training(cfg, name)
    # Apply the options.
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(config).stem}'
    if seed is not None:
        cfg.randomness = dict(cfg.get('randomness', {}), seed=seed)
        set_seed(cfg.train_dataloader.dataset, seed)
    if amp:
        _use_amp(cfg, amp)
    if auto_scale_lr:
        _scale_learning_rate(cfg, name)
    if resume is None and cfg.get('resume') and not cfg.get('load_from'):
        resume = 'auto'
    if resume:
        _resume(cfg, resume)
    _check_start(cfg)
    # Build the runner, check the checkpoint to start from, and train.
    runner = Runner.from_cfg(cfg)
    start = cfg.get('load_from')
    if start:
        check_checkpoint(runner.model, start, partial=not cfg.get('resume'), resume=cfg.get('resume', False))
    if runner.rank == 0:
        write_json({k: str(v) for k, v in collect_env().items()}, Path(runner.work_dir) / 'environment.json', indent=2)
    runner.train()
    # Record the results.
    metrics = _last_metrics(runner)
    if runner.rank == 0:
        write_json(metrics, Path(runner.work_dir) / 'metrics.json', indent=2)
        for line in left_out_lines(runner.train_dataloader.dataset):
            print(f'Warning: {line}')
        print(f'Checkpoints, logs and images: {runner.work_dir}')
    return metrics


def _use_amp(cfg: Config, dtype: str) -> None:
    """Switch the optimizer wrapper to mixed precision."""
    if not torch.cuda.is_available():
        if dtype != 'bfloat16':
            raise InputError(f'--amp {dtype}: needs a GPU; give --amp bfloat16 on this machine')
        cfg.optim_wrapper.type = 'CPUBFloat16OptimWrapper'
        return
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.dtype = dtype
    # Small gradients become 0 in float16, unless the loss is scaled.
    if dtype == 'float16':
        cfg.optim_wrapper.loss_scale = 'dynamic'


def _scale_learning_rate(cfg: Config, name: str) -> None:
    """Let MMEngine scale the learning rate from ``auto_scale_lr.base_batch_size``."""
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise InputError(f'--auto-scale-lr: {name} has no auto_scale_lr.base_batch_size; add it')
    cfg.auto_scale_lr.enable = True


def _resume(cfg: Config, checkpoint: str) -> None:
    """Continue from ``checkpoint``; for ``auto``, from the latest checkpoint in the work directory.

    If the work directory has no checkpoint, a new run starts with the weights of ``load_from``, which MMEngine would
    ignore.
    """
    out_dir = (cfg.get('default_hooks') or {}).get('checkpoint', {}).get('out_dir')
    path = latest_checkpoint(cfg.work_dir, out_dir) if checkpoint == 'auto' else checkpoint
    if path is None:
        print(f'--resume: no checkpoint in {cfg.work_dir}, this is a new run')
        return
    cfg.resume, cfg.load_from = True, path


def latest_checkpoint(work_dir: str, out_dir: str | None = None) -> str | None:
    """Return the latest checkpoint of a work directory, or None without one.

    The file ``last_checkpoint`` contains the path that the checkpoint was written to. If the work directory has been
    copied or moved since, the file of that name in the work directory is returned.

    Args:
        work_dir: Work directory.
        out_dir: ``out_dir`` of MMEngine's ``CheckpointHook``; None: checkpoints are in the work directory.

    Raises:
        InputError: the checkpoint is missing.
    """
    recorded = find_latest_checkpoint(work_dir)
    if recorded is None:
        return None
    # A run that was killed while it wrote last_checkpoint leaves an empty file; its checkpoints are complete.
    if not recorded:
        written = [path for kind in ('epoch', 'iter') for path in visible(work_dir, f'{kind}_*.pth')]
        recorded = str(max(written, key=lambda path: path.stat().st_mtime_ns, default=''))
    own = Path(work_dir) / Path(recorded).name
    if own.is_file():
        return str(own)
    if out_dir is not None and Path(recorded).is_file():
        return recorded
    # A checkpoint of another folder may belong to another run.
    raise InputError(
        f'{work_dir}: last_checkpoint names {recorded!r}, which is not in this folder; restore it, or name a '
        'checkpoint with --resume FILE'
    )


def _check_start(cfg: Config) -> None:
    """Check that the checkpoint to start from exists."""
    path = cfg.get('load_from')
    if path and '://' not in path and not Path(path).is_file():
        hint = (
            'check --resume'
            if cfg.get('resume')
            else 'the config starts from it: make it first, as `make demo-shapes` does for the recipes of small data '
            'sets, or start without it by --cfg-options load_from=None'
        )
        raise InputError(f'{path}: no such checkpoint; {hint}')


def _last_metrics(runner: Runner) -> dict[str, float]:
    scalars = {name: float(buffer.current()) for name, buffer in runner.message_hub.log_scalars.items()}
    return {name.removeprefix('val/'): value for name, value in scalars.items() if name not in _TIMERS}
