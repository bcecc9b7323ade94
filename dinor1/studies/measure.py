"""Test one checkpoint on several data sets, with several protocols, numbers of exemplars and prompt seeds."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from dinor1.engine import PromptedTestLoop, QueryRecorder
from dinor1.engine.runner import Runner
from dinor1.evaluation import (
    PromptProtocol,
    VisualGeneric,
    VisualInteractive,
    draw_exemplars,
    embed_exemplars,
    iisr,
)
from dinor1.evaluation.seed_average import mean_and_std
from dinor1.utils.checkpoint import check_checkpoint
from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json

_AP = {'AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50'}


def measure(
    sets: Mapping[str, Config],
    checkpoint: str,
    work_dir: str | Path,
    num_exemplars: Sequence[int] = (1, 4, 16),
    prompt_seeds: int = 3,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Test a checkpoint with visual-interactive prompts, and with each number of visual-generic exemplars.

    All prompts are drawn ``prompt_seeds`` times. For the last number of exemplars and the first seed, the queries are
    recorded and the similarity of the prompts is measured.

    Args:
        sets: Name -> config whose test set, metric and ``prompt_dataset`` are used. The configs are not changed.
        checkpoint: Checkpoint of a model that fits all configs.
        work_dir: Drawn prompts and records of queries are written to a folder per set in it.
        num_exemplars: Numbers of exemplars per class, each at least 1.
        prompt_seeds: Number of draws of the prompts, at least 1.
        progress: Called with a line after each test.

    Returns:
        ``runs``: a dict per test with ``set``, ``protocol``, ``num_exemplars`` (visual-generic), ``seed`` and all
        metrics; ``prompts`` and ``queries``: by set; ``metrics``: numbers by name such as ``base/generic16/AP``, means
        over the draws, with their sample standard deviation in ``base/generic16/AP_std``.

    Raises:
        InputError: an argument is out of range, a config draws no visual prompts or computes no COCO AP, or the
            checkpoint does not fit.
    """
    if prompt_seeds < 1 or not num_exemplars or min(num_exemplars) < 1:
        raise InputError(f'expected prompt seeds and exemplars >= 1, got {prompt_seeds} and {list(num_exemplars)}')
    result: dict[str, Any] = dict(runs=[], prompts={}, queries={}, metrics={})
    for name, cfg in sets.items():
        _measure_set(result, name, cfg, checkpoint, Path(work_dir) / name, num_exemplars, prompt_seeds, progress)
    return result


def _measure_set(
    result: dict[str, Any],
    name: str,
    cfg: Config,
    checkpoint: str,
    work_dir: Path,
    num_exemplars: Sequence[int],
    prompt_seeds: int,
    progress: Callable[[str], None],
) -> None:
    runner, loop = _runner(name, cfg, checkpoint, work_dir)
    dataset, first = loop.protocol.dataset, loop.protocol.seed

    def test(protocol: PromptProtocol, recorder: QueryRecorder | None = None) -> dict[str, float]:
        # Evaluate, and check that AP is reported.
        tested = loop.evaluate(protocol, recorder)
        metrics, description = tested['metrics'], tested['prompts']
        if missing := set(_AP.values()) - set(metrics):
            raise InputError(
                f'{name}: the test evaluator reports no {", ".join(sorted(missing))}; use CocoPromptMetric'
            )
        # Record the metrics with the settings of the protocol.
        known = ('protocol', 'seed', 'num_exemplars')
        settings = dict(set=name) | {key: description[key] for key in known if key in description}
        result['runs'].append(settings | dict(metrics=metrics))
        progress(', '.join(f'{key} {value}' for key, value in settings.items()) + f': AP {metrics[_AP["AP"]]:.4f}')
        return metrics

    # Test with every kind of prompts and every seed.
    seeds = range(first, first + prompt_seeds)
    found = {'interactive': [test(VisualInteractive(seed)) for seed in seeds]}
    for number in num_exemplars:
        # Run the first seed last: the last test is recorded.
        for seed in reversed(seeds):
            recorder = QueryRecorder(figure=False) if (number, seed) == (num_exemplars[-1], first) else None
            metrics = test(VisualGeneric(dataset, number, seed), recorder)
            found.setdefault(f'generic{number}', []).append(metrics)
    runner.call_hook('after_run')
    # Average over the seeds.
    for kind, runs in found.items():
        mean, std = mean_and_std(runs)
        for short, metric in _AP.items():
            result['metrics'][f'{name}/{kind}/{short}'] = mean[metric]
            result['metrics'][f'{name}/{kind}/{short}_std'] = std[metric]

    # Add the similarity of the recorded prompts, and the statistics of their queries.
    exemplars = draw_exemplars(dataset, num_exemplars[-1], first)
    similarity = iisr(*embed_exemplars(runner.model, dataset, exemplars))
    similarity = {key: None if math.isnan(value) else value for key, value in similarity.items()}
    queries = read_json(work_dir / 'queries_test.json')
    result['prompts'][name], result['queries'][name] = similarity, queries
    flat = similarity | {key: value for key, value in queries.items() if not isinstance(value, list)}
    flat |= {f'{key}_last': queries[key][-1] for key in ('covering', 'responding', 'spread') if key in queries}
    result['metrics'] |= {f'{name}/{key}': value for key, value in flat.items() if value is not None}


def _runner(name: str, cfg: Config, checkpoint: str, work_dir: Path) -> tuple[Runner, PromptedTestLoop]:
    """Build a runner only for tests, and load the checkpoint; returns it with its test loop."""
    # Remove everything that a test does not need; without worker processes a test starts faster.
    cfg = copy.deepcopy(cfg)
    cfg.load_from, cfg.resume, cfg.work_dir = str(checkpoint), False, str(work_dir)
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.default_hooks = {key: cfg.default_hooks[key] for key in ('timer',) if key in cfg.default_hooks}
    if cfg.get('visualizer'):
        cfg.visualizer.vis_backends = []
    # Choose a unique name, because MMEngine keeps one log per name and process.
    cfg.experiment_name = f'measure_{name}_{id(cfg)}'
    cfg.log_level = 'WARNING'
    # Build the runner, and check the checkpoint and the protocol.
    runner = Runner.from_cfg(cfg)
    check_checkpoint(runner.model, str(checkpoint))
    loop = runner.test_loop
    if not isinstance(getattr(loop, 'protocol', None), VisualGeneric):
        raise InputError(
            f"{name}: its config draws no visual-generic prompts; give it test_cfg=dict(type='PromptedTestLoop', "
            "prompts=dict(type='VisualGeneric')) and a prompt_dataset"
        )
    # Load the weights.
    runner.call_hook('before_run')
    runner.load_or_resume()
    torch.manual_seed(0)
    return runner, loop
