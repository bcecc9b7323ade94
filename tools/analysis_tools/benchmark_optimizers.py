#!/usr/bin/env python
"""Time one step of AdamP and SGDP against the authors' package and torch's own optimizers.

All optimizers of a device alternate, round after round, so that other load affects all of them alike; a ratio is the
median over the rounds of the ratio within a round. The weights have the shapes of the backbone in a config (default:
Swin-T) and random values. About one in twelve tensors is projected, or all with --tangent. The authors' package is
left out if it is not installed (pip install adamp).

Examples:
    python tools/analysis_tools/benchmark_optimizers.py
    python tools/analysis_tools/benchmark_optimizers.py --rounds 30 --threads 1 --out work_dirs/optimizers.json
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable

import torch
from torch.optim import SGD, AdamW, Optimizer

from dinor1.benchmarks.timing import ratio, take_turns, timed
from dinor1.benchmarks.timing_options import add_timing_options, apply_timing_options
from dinor1.cli.exit_status import run_command
from dinor1.utils import markdown

CONFIG = 'configs/_base_/models/dino_r1_swin-t.py'
# Least number of arrays that a step moves: it reads weight, gradient and moments, and writes weight and moments.
LEAST_ARRAYS = {'Adam': 7, 'SGD': 5}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default=CONFIG, help=f'config whose backbone gives the shapes (default: {CONFIG})')
    parser.add_argument('--devices', nargs='+', help='devices (default: cpu, and cuda if there is a GPU)')
    add_timing_options(parser, 15, 'steps of every optimizer')
    parser.add_argument(
        '--tangent', action='store_true', help='use gradients orthogonal to the weights, so that all are projected'
    )
    parser.add_argument('--out', metavar='FILE.json', help='also write every number to a file')
    return parser.parse_args()


def arms() -> dict[str, tuple[str, Callable[[list], Optimizer]]]:
    """Name -> (family, function that makes the optimizer). The first of a family is its baseline."""
    from dinor1.blocks.adamp import SGDP, AdamP

    # Use a small learning rate, so that tangent gradients stay tangent; the rate does not change the time.
    adam = dict(lr=1e-9, weight_decay=1e-4)
    sgd = dict(lr=1e-9, weight_decay=1e-4, momentum=0.9)
    made = {
        'AdamP foreach': ('Adam', lambda p: AdamP(p, **adam, foreach=True)),
        'AdamP one by one': ('Adam', lambda p: AdamP(p, **adam, foreach=False)),
        'AdamW one by one': ('Adam', lambda p: AdamW(p, **adam, foreach=False)),
        'AdamW foreach': ('Adam', lambda p: AdamW(p, **adam, foreach=True)),
        'AdamW fused': ('Adam', lambda p: AdamW(p, **adam, fused=True)),
        'SGDP foreach': ('SGD', lambda p: SGDP(p, **sgd, foreach=True)),
        'SGDP one by one': ('SGD', lambda p: SGDP(p, **sgd, foreach=False)),
        'SGD foreach': ('SGD', lambda p: SGD(p, **sgd, foreach=True)),
        'SGD fused': ('SGD', lambda p: SGD(p, **sgd, fused=True)),
    }
    with contextlib.suppress(ImportError):
        from adamp import SGDP as PublishedSGDP  # noqa: N811  (an acronym)
        from adamp import AdamP as PublishedAdamP

        made['adamp.AdamP'] = ('Adam', lambda p: PublishedAdamP(p, **adam))
        made['adamp.SGDP'] = ('SGD', lambda p: PublishedSGDP(p, **sgd))
    return made


def backbone_shapes(config: str) -> list[torch.Size]:
    """Shapes of the trainable parameters of a config's backbone.

    Raises:
        InputError: the config has no backbone.
    """
    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.registry import MODELS
    from dinor1.utils.config import load_config
    from dinor1.utils.errors import InputError

    cfg = load_config(config)
    if 'backbone' not in cfg.get('model', {}):
        raise InputError(f'{config}: no model.backbone in this config; give a config with a backbone')
    # Only the shapes are needed: load no weights.
    cfg.model.backbone.pop('init_cfg', None)
    return [p.shape for p in MODELS.build(cfg.model.backbone).parameters() if p.requires_grad]


def bandwidth(device: str, num_elements: int, clock: str) -> float:
    """Bytes per second of ``a += b`` on float32 arrays of the model's size: the roofline of every step."""
    a, b = torch.ones(num_elements, device=device), torch.ones(num_elements, device=device)
    return 3 * 4 * num_elements / min(timed(lambda: a.add_(b), device, clock).times)


def tangent(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Remove the component of the gradient along the weight, row by row; vectors are returned unchanged."""
    if weight.dim() < 2:
        return grad
    rows, along = grad.flatten(1), weight.flatten(1)
    along = along / along.norm(dim=1, keepdim=True)
    return (rows - along * (rows * along).sum(1, keepdim=True)).view_as(grad)


def measure(
    device: str, shapes: list[torch.Size], rounds: int, clock: str, all_projected: bool
) -> dict[str, list[float]]:
    """Seconds per step of every optimizer in every round."""
    # Draw weights and gradients. Optimizers share the gradients, which they only read, and copy the weights.
    made = arms()
    generator = torch.Generator().manual_seed(0)
    steps = {}
    weights = [torch.randn(shape, generator=generator).mul_(0.02).to(device) for shape in shapes]
    grads = [torch.randn(shape, generator=generator).mul_(1e-3).to(device) for shape in shapes]
    if all_projected:
        grads = [tangent(grad, weight) for grad, weight in zip(grads, weights, strict=True)]
    # Make the optimizers.
    for name, (_, make) in made.items():
        params = [torch.nn.Parameter(weight.clone()) for weight in weights]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        steps[name] = make(params).step
    # Time the steps, after two that create the state.
    measured = take_turns(steps, rounds, device, clock, warmup=2)
    return {name: one.times for name, one in measured.items()}


def report(seconds: dict[str, list[float]], num_elements: int, roof: float) -> dict[str, dict[str, float]]:
    """Per optimizer: median milliseconds, ratio to the first of its family, and least time divided by the time."""
    made, first = arms(), {}
    table = {}
    for name, times in seconds.items():
        family = made[name][0]
        base = seconds[first.setdefault(family, name)]
        # Reading and writing these float32 arrays takes at least this time.
        least = LEAST_ARRAYS[family] * 4 * num_elements / roof
        table[name] = dict(
            milliseconds=1e3 * statistics.median(times),
            ratio=ratio(times, base),
            roof_share=least / statistics.median(times),
        )
    return table


def main() -> None:
    args = parse_args()

    from dinor1.utils.errors import InputError
    from dinor1.utils.io import write_json

    if args.rounds < 1:
        raise InputError(f'--rounds: must be at least 1, got {args.rounds}')
    # Check the devices, and record the settings.
    devices = args.devices or ['cpu'] + ['cuda'] * torch.cuda.is_available()
    apply_timing_options(args, devices, '--devices')
    shapes = backbone_shapes(args.config)
    num_elements = sum(shape.numel() for shape in shapes)
    record = dict(config=args.config, tensors=len(shapes), parameters=num_elements, devices={})
    record.update(torch=torch.__version__, threads=torch.get_num_threads(), rounds=args.rounds)
    record.update(clock=args.clock, tangent=args.tangent)
    print(f'{args.config}: {len(shapes)} tensors, {num_elements / 1e6:.1f} M parameters')
    # Measure and report each device.
    for device in devices:
        roof = bandwidth(device, num_elements, args.clock)
        seconds = measure(device, shapes, args.rounds, args.clock, args.tangent)
        results = report(seconds, num_elements, roof)
        name = 'cpu' if device == 'cpu' else torch.cuda.get_device_name(device)
        record['devices'][device] = dict(name=name, bytes_per_second=roof, results=results, seconds=seconds)
        print(f'\n{name}: {roof / 1e9:.1f} GB/s')
        rows = [
            [arm, f'{row["milliseconds"]:.1f}', f'{row["ratio"]:.2f}', f'{row["roof_share"]:.0%}']
            for arm, row in results.items()
        ]
        print(markdown.table(['optimizer', 'ms per step', 'time relative to the first', 'share of memory speed'], rows))
    if args.out:
        write_json(record, args.out, indent=2)


if __name__ == '__main__':
    run_command(main)
