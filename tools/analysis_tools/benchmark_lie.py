#!/usr/bin/env python
"""Measure speed and memory of group convolutions against the number of samples, and against escnn.

The network is the trunk of the classifier: lifting, a residual block, pooling, a last convolution. On SO(2) with N
cyclic samples it has the same maps as an escnn network of regular representations of C_N with the same channels; both
are measured in one run. On a CPU, the tool measures processor time on ``--threads`` threads, which other work on the
machine affects little, and the growth of the process's memory. Each measurement runs in a new process.

escnn is optional: pip install escnn.

Examples:
    python tools/analysis_tools/benchmark_lie.py --samples 2 4 8 --out work_dirs/benchmark_lie.json
    python tools/analysis_tools/benchmark_lie.py --device cuda --width 40 --batch 32 --samples 4 8 16
"""

import argparse
import multiprocessing
import platform
import resource
import sys

from dinor1.cli.exit_status import run_command
from dinor1.utils import markdown
from dinor1.utils.errors import InputError
from dinor1.utils.io import write_json

ARMS = ('gl2', 'sl2', 'so2', 'escnn')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arms', nargs='+', choices=ARMS, default=list(ARMS), help='groups, and escnn for C_N')
    parser.add_argument('--samples', type=int, nargs='+', default=[2, 4, 8], help='numbers of samples N')
    parser.add_argument('--width', type=int, default=8, help='channels of the maps (default: 8)')
    parser.add_argument('--side', type=int, default=40, help='side of the images (default: 40)')
    parser.add_argument('--batch', type=int, default=8, help='images per step (default: 8)')
    parser.add_argument('--repeats', type=int, default=5, help='timed steps; the median counts (default: 5)')
    parser.add_argument('--kernel', choices=['siren', 'spline'], default='siren', help='our kernels (default: siren)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument('--threads', type=int, default=1, help='threads on a CPU (default: 1)')
    parser.add_argument('--out', metavar='FILE.json', help='also write the numbers to a file')
    return parser.parse_args()


def our_trunk(group: str, n_samples: int, width: int, kernel: str):
    """Build the trunk of :class:`dinor1.blocks.lie.AffineEquivariantNet`, pooled to a vector."""
    from dinor1.blocks.lie import AffineEquivariantNet

    return AffineEquivariantNet(
        group,
        width=width,
        n_samples=n_samples,
        num_classes=None,
        seed=0,
        layers=dict(norm='batch'),
        kernel=dict(kind=kernel),
        sampling=dict(rot='cyclic', shared=True) if group == 'so2' else None,
    )


def escnn_trunk(n_samples: int, width: int):
    """Build the same layers in escnn: regular representations of C_N, 5 x 5 windows."""
    import torch
    from escnn import gspaces, nn

    # The image has one channel, and the maps have one for each rotation.
    space = gspaces.rot2dOnR2(N=n_samples)
    image = nn.FieldType(space, [space.trivial_repr])
    maps = nn.FieldType(space, width * [space.regular_repr])

    def conv(source, padding):
        return [nn.R2Conv(source, maps, 5, padding=padding, bias=False), nn.InnerBatchNorm(maps), nn.ELU(maps)]

    class Trunk(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.SequentialModule(*conv(image, 0))
            self.block = nn.SequentialModule(*conv(maps, 2), *conv(maps, 2))
            self.pool = nn.PointwiseMaxPool(maps, 2)
            self.last = nn.SequentialModule(*conv(maps, 0))
            self.group_pool = nn.GroupPooling(maps)

        def forward(self, x):
            y = self.stem(image(x))
            y = self.block(y) + y
            return self.group_pool(self.last(self.pool(y))).tensor.amax((2, 3))

    return Trunk()


def _memory(device: str) -> float:
    """Peak memory so far, in MiB."""
    import torch

    if device == 'cpu':
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return torch.cuda.max_memory_allocated() / 2**20


def measure(arm: str, n_samples: int, settings: dict) -> dict:
    """Measure time and memory of training (forward and backward) and inference of one model, in a new process."""
    import torch

    from dinor1.benchmarks.timing import take_turns

    # Build the model.
    device = settings['device']
    torch.set_num_threads(settings['threads'])
    torch.manual_seed(0)
    width = settings['width']
    model = escnn_trunk(n_samples, width) if arm == 'escnn' else our_trunk(arm, n_samples, width, settings['kernel'])
    model.to(device)
    x = torch.rand(settings['batch'], 1, settings['side'], settings['side'], device=device)

    def seconds(step) -> float:
        clock = 'cpu' if device == 'cpu' else 'wall'
        return take_turns({'step': step}, settings['repeats'], device, clock)['step'].median

    def train_step() -> None:
        model(x).square().mean().backward()

    @torch.no_grad()
    def test_step() -> None:
        model(x)

    # Measure.
    before = _memory(device)
    test_time = seconds(lambda: model.eval() and test_step())
    test_memory = _memory(device) - before
    train_time = seconds(lambda: model.train() and train_step())
    return dict(
        arm=arm,
        samples=n_samples,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        test_images_per_second=settings['batch'] / test_time,
        train_images_per_second=settings['batch'] / train_time,
        test_memory_mib=test_memory,
        train_memory_mib=_memory(device) - before,
    )


def check(args: argparse.Namespace) -> None:
    """Check the options before the first measurement."""
    if min(*args.samples, args.width, args.batch, args.repeats, args.threads) < 1:
        raise InputError('--samples, --width, --batch, --repeats and --threads must be at least 1')
    if args.side < 14:
        raise InputError(f'--side must be at least 14 for windows of 5, got {args.side}')
    if args.device != 'cpu':
        import torch

        if not torch.cuda.is_available():
            raise InputError(f'--device {args.device}: no GPU here; leave the option out')
    if 'escnn' in args.arms:
        try:
            import escnn.nn  # noqa: F401
        except ImportError as error:
            raise InputError(
                f'escnn cannot be imported ({error}); pip install escnn, or leave it out of --arms'
            ) from None


def main() -> None:
    args = parse_args()
    check(args)
    settings = {key: getattr(args, key) for key in ('width', 'side', 'batch', 'repeats', 'kernel', 'device', 'threads')}
    # Measure every arm with every number of samples.
    rows = []
    heads = ['arm', 'N', 'parameters', 'train images/s', 'test images/s', 'train MiB', 'test MiB']
    print(markdown.table_head(heads))
    context = multiprocessing.get_context('spawn')
    for n_samples in args.samples:
        for arm in args.arms:
            with context.Pool(1) as pool:
                row = pool.apply(measure, (arm, n_samples, settings))
            rows.append(row)
            numbers = ('train_images_per_second', 'test_images_per_second', 'train_memory_mib', 'test_memory_mib')
            cells = [arm, n_samples, row['parameters'], *(f'{row[name]:.0f}' for name in numbers)]
            print(markdown.table_row(cells), flush=True)
    # Write the numbers.
    if args.out:
        import torch

        environment = dict(torch=torch.__version__, python=platform.python_version(), machine=platform.machine())
        write_json(
            dict(command=' '.join(sys.argv), config=settings, environment=environment, metrics=rows), args.out, indent=2
        )
        print(f'Numbers: {args.out}')


if __name__ == '__main__':
    run_command(main)
