"""Test a checkpoint, as ``dinor1 test`` does."""

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from dinor1.engine.augmented_test import use_test_time_augmentation
from dinor1.engine.cpu_ranks import check_launcher
from dinor1.engine.data_folder import use_folder
from dinor1.engine.loops import PromptedTestLoop
from dinor1.engine.run_checks import check_testing
from dinor1.engine.runner import Runner
from dinor1.evaluation import mean_and_std
from dinor1.inference.acceleration import compile_detector, set_inference_dtype
from dinor1.utils.checkpoint import check_checkpoint
from dinor1.utils.config import load_config
from dinor1.utils.distributed import unwrapped
from dinor1.utils.errors import InputError
from dinor1.utils.io import check_output, write_json


@dataclasses.dataclass(frozen=True)
class TestOptions:
    """Options of a test.

    Attributes:
        prompt_seeds: Number of draws of the visual prompts; the test is repeated for each.
        amp: ``'bfloat16'``: mixed precision, boxes and scores stay in float32; None: float32.
        compile: Whether to compile the model.
        out: File for the raw predictions, ending in ``.pkl``.
        show_dir: Folder for all test images with their detections.
        tta: Whether to merge the detections on several views of each image, see :mod:`dinor1.engine.augmented_test`.
    """

    __test__ = False  # pytest: not a test

    prompt_seeds: int = 1
    amp: str | None = None
    compile: bool = False
    out: str | None = None
    show_dir: str | None = None
    tta: bool = False


def evaluate(
    config: str | Path,
    checkpoint: str | Path,
    work_dir: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = 'none',
    options: TestOptions | None = None,
    data: str | Path | None = None,
) -> dict[str, float]:
    """Test a checkpoint with the prompts that the config names.

    The metrics, and how they were obtained, are written to ``metrics.json`` in the work directory.

    Args:
        config: Config file, or the name of one that comes with dinor1.
        checkpoint: Checkpoint file.
        work_dir: Default: ``test_<name of the config>`` beside the checkpoint, or in ``work_dirs`` for an address.
        cfg_options: Settings of the config to override, by dotted key.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        options: Options of the test. Default: ``TestOptions()``.
        data: Folder of annotated images to test on instead of the config's data sets, see
            :func:`~dinor1.engine.data_folder.use_folder`.

    Returns:
        The metrics, averaged over the draws of prompts.

    Raises:
        InputError: the config, an option or the checkpoint is invalid.
    """
    options, name, checkpoint = options or TestOptions(), str(config), str(checkpoint)
    # Check config and options, before the work directory is made.
    cfg = load_config(config, cfg_options)
    if data is not None:
        use_folder(cfg, data, name)
        if cfg.test_dataloader is None:
            raise InputError(f'--data {data}: no annotations of test or validation images')
    if '://' not in checkpoint and not Path(checkpoint).is_file():
        raise InputError(f'{checkpoint}: no such checkpoint')
    check_launcher(launcher)
    check_testing(cfg, name)
    # Apply the options.
    _use_prompt_seeds(cfg, options)
    _write_predictions(cfg, options.out)
    if options.tta:
        use_test_time_augmentation(cfg, name)
    if options.show_dir:
        _draw_images(cfg, options.show_dir)
    cfg.launcher, cfg.load_from, cfg.resume = launcher, checkpoint, False
    beside = Path('work_dirs') if '://' in checkpoint else Path(checkpoint).parent
    cfg.work_dir = work_dir or str(beside / f'test_{Path(config).stem}')
    # Remove the settings of the training, which a test does not need.
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    # Load the checkpoint.
    runner = Runner.from_cfg(cfg)
    check_checkpoint(runner.model, checkpoint)
    model = unwrapped(runner.model)
    if options.amp:
        set_inference_dtype(model, options.amp, '--amp')
    if options.compile:
        compile_detector(model, next(model.parameters()).device, '--compile')
    # Test, and average over the draws of prompts.
    metrics = runner.test()
    loop = runner.test_loop
    runs = loop.results if isinstance(loop, PromptedTestLoop) else [dict(prompts={}, metrics=metrics)]
    mean, std = mean_and_std([run['metrics'] for run in runs])
    # Record the results.
    if runner.rank == 0:
        record = dict(
            config=name,
            checkpoint=checkpoint,
            command=shlex.join(sys.argv),
            ann_file=str(getattr(runner.test_dataloader.dataset, 'ann_file', '')),
            protocol=runs[0]['prompts'],
            precision=options.amp or 'float32',
            compiled=options.compile,
            tta=options.tta,
            metrics=mean,
        )
        if 'similarity' in runs[0]:
            record['prompt_similarity'] = runs[0]['similarity']
        if len(runs) > 1:
            record |= dict(metrics_std=std, runs=runs)
            print(f'Mean and standard deviation over {len(runs)} draws of prompts:')
            for key, value in mean.items():
                print(f'  {key}: {value:.4f} +- {std[key]:.4f}')
        write_json(record, Path(runner.work_dir) / 'metrics.json', indent=2)
        print(f'Metrics and images: {runner.work_dir}')
    return mean


def _use_prompt_seeds(cfg: Config, options: TestOptions) -> None:
    """Let the test loop repeat the test with consecutive seeds, starting with the seed of the config."""
    # Check the option and the config.
    if options.prompt_seeds < 1:
        raise InputError(f'--prompt-seeds must be at least 1, got {options.prompt_seeds}')
    if options.prompt_seeds == 1:
        return
    prompts = cfg.test_cfg.get('prompts')
    if prompts is None or prompts['type'] == 'TextPrompts':
        raise InputError('--prompt-seeds: this config draws no visual prompts; leave the option out')
    if options.out:
        raise InputError('--out holds the predictions of one draw; leave out --prompt-seeds or --out')
    # Set the seeds.
    first = prompts.get('seed', 0)
    cfg.test_cfg.seeds = list(range(first, first + options.prompt_seeds))


def _write_predictions(cfg: Config, out: str | None) -> None:
    """Let MMDetection's ``DumpDetResults`` write the raw predictions."""
    if out is None:
        return
    # Check the path before hours of inference.
    if not out.endswith(('.pkl', '.pickle')):
        raise InputError(f'--out {out}: expected a file name that ends in .pkl')
    check_output(out, '--out')
    # Add the metric that writes the file.
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    cfg.test_evaluator = [*evaluators, dict(type='DumpDetResults', out_file_path=out)]


def _draw_images(cfg: Config, folder: str) -> None:
    """Let the visualization hook write every test image with its detections."""
    check_output(Path(folder) / 'image.png', '--show-dir')
    hooks = cfg.setdefault('default_hooks', {})
    hooks['visualization'] = dict(hooks.get('visualization') or dict(type='PromptVisualizationHook'), show_dir=folder)
