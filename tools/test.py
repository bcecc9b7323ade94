#!/usr/bin/env python
"""Test a checkpoint with the prompts that the config names.

Examples:
    python tools/test.py configs/dino_r1/dino-r1_nano_1xb8_6e_shapes.py work_dirs/run1/epoch_6.pth
    python tools/test.py CONFIG CHECKPOINT --prompt-seeds 5
    python tools/test.py CONFIG CHECKPOINT --amp bfloat16 --compile
    python tools/test.py CONFIG CHECKPOINT --cfg-options test_cfg.prompts.type=VisualInteractive
"""

import argparse
import sys
from pathlib import Path

from dinor1.cli.options import parse_run_args


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--work-dir', help='where metrics and pictures go (default: folder of the checkpoint, /test_CONFIG)'
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
        '--compile', action='store_true', help='compile the model; needs a C++ compiler, pays for images of few sizes'
    )
    parser.add_argument('--out', metavar='FILE.pkl', help='also write the raw predictions')
    return parse_run_args(parser)


def main() -> None:
    args = parse_args()

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.engine import PromptedTestLoop, Runner
    from dinor1.engine.cpu_ranks import check_launcher
    from dinor1.engine.run_checks import check_testing
    from dinor1.evaluation.seed_average import mean_and_std
    from dinor1.inference.acceleration import compile_detector, set_inference_dtype
    from dinor1.utils.checkpoint import check_checkpoint
    from dinor1.utils.config import load_config
    from dinor1.utils.distributed import unwrapped
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import check_output, write_json

    cfg = load_config(args.config, args.cfg_options)
    # Before the runner makes the work directory, which lies beside the checkpoint.
    if '://' not in args.checkpoint and not Path(args.checkpoint).is_file():
        raise InputError(f'{args.checkpoint}: no such checkpoint')
    check_launcher(args.launcher)
    check_testing(cfg, args.config)
    use_prompt_seeds(args, cfg)
    cfg.launcher = args.launcher
    cfg.load_from, cfg.resume = args.checkpoint, False
    cfg.work_dir = args.work_dir or str(Path(args.checkpoint).parent / f'test_{Path(args.config).stem}')
    if args.out:
        if not args.out.endswith(('.pkl', '.pickle')):
            raise InputError(f'--out {args.out}: expected a file name that ends in .pkl')
        check_output(args.out, '--out')
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        cfg.test_evaluator = [*evaluators, dict(type='DumpDetResults', out_file_path=args.out)]
    # Test needs no optimizer, and a config for training brings one.
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None

    runner = Runner.from_cfg(cfg)
    check_checkpoint(runner.model, args.checkpoint)
    model = unwrapped(runner.model)
    if args.amp:
        set_inference_dtype(model, args.amp, '--amp')
    if args.compile:
        compile_detector(model, next(model.parameters()).device, '--compile')
    metrics = runner.test()
    loop = runner.test_loop
    runs = loop.results if isinstance(loop, PromptedTestLoop) else [dict(prompts={}, metrics=metrics)]
    mean, std = mean_and_std([run['metrics'] for run in runs])
    if runner.rank == 0:
        record = dict(
            config=args.config,
            checkpoint=args.checkpoint,
            command=' '.join(sys.argv),
            ann_file=str(getattr(runner.test_dataloader.dataset, 'ann_file', '')),
            protocol=runs[0]['prompts'],
            precision=args.amp or 'float32',
            compiled=args.compile,
            metrics=mean,
        )
        if len(runs) > 1:
            record |= dict(metrics_std=std, runs=runs)
            print(f'Mean and standard deviation over {len(runs)} draws of prompts:')
            for name, value in mean.items():
                print(f'  {name}: {value:.4f} +- {std[name]:.4f}')
        write_json(record, Path(runner.work_dir) / 'metrics.json', indent=2)
        print(f'Metrics and pictures: {runner.work_dir}')


def use_prompt_seeds(args: argparse.Namespace, cfg) -> None:
    """Let the test loop repeat the test with consecutive seeds, from that of the config on."""
    from dinor1.utils.errors import InputError

    if args.prompt_seeds < 1:
        raise InputError(f'--prompt-seeds must be at least 1, got {args.prompt_seeds}')
    if args.prompt_seeds == 1:
        return
    prompts = cfg.test_cfg.get('prompts')
    if prompts is None or prompts['type'] == 'TextPrompts':
        raise InputError('--prompt-seeds: this config draws no visual prompts, there is nothing to repeat')
    if args.out:
        raise InputError('--out holds the predictions of one draw; leave out --prompt-seeds or --out')
    first = prompts.get('seed', 0)
    cfg.test_cfg.seeds = list(range(first, first + args.prompt_seeds))


if __name__ == '__main__':
    from dinor1.cli.run_tool import run_tool

    run_tool(main)
