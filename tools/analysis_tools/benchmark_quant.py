#!/usr/bin/env python
"""Time integer products and steps of whole layers against float32 and bfloat16 on the same machine.

All arms alternate, round after round, so that other load affects all of them alike; a ratio is the median over the
rounds of the ratio within a round. For every shape the tool times:

- product: one matrix product of quantized operands.
- shifted: the product for the gradient of the input with ShiftQuant's shifts, as one product and as one per group.
- quantize, of linear layers: stochastic ShiftQuant of the gradient, and rounding of the activation to nearest.
- step: forward and backward pass of a layer, including all quantization.

Examples:
    python tools/analysis_tools/benchmark_quant.py --threads 1 --clock cpu
    python tools/analysis_tools/benchmark_quant.py --bits 6 --shapes 4096x256x1024 --out work_dirs/quant.json
"""

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
from torch import nn

from dinor1.benchmarks.timing import ratio, take_turns
from dinor1.benchmarks.timing_options import add_timing_options, apply_timing_options
from dinor1.cli.exit_status import run_command
from dinor1.utils import markdown
from dinor1.utils.processor import processor_name

# N x Ci x Co of linear layers, and B x Ci x Co x side x kernel of convolutions.
SHAPES = ['1024x256x256', '4096x256x1024', '16x64x64x28x3', '16x128x128x14x3']


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--shapes',
        nargs='+',
        default=SHAPES,
        help=f'NxCIxCO, or for convolutions BxCIxCOxSIDExKERNEL (default: {" ".join(SHAPES)})',
    )
    parser.add_argument('--bits', type=int, default=4, help='bits of weights, activations and gradients (default: 4)')
    parser.add_argument('--devices', nargs='+', help='devices (default: cpu, and cuda if there is a GPU)')
    add_timing_options(parser, 15, 'calls of every arm')
    parser.add_argument('--out', metavar='FILE.json', help='also write every number to a file')
    return parser.parse_args()


def parse_shape(text: str) -> tuple[int, ...]:
    """Read the numbers of a shape.

    Raises:
        InputError: the text is not three or five positive whole numbers.
    """
    from dinor1.utils.errors import InputError

    parts = text.split('x')
    if len(parts) not in (3, 5) or not all(part.isdigit() and int(part) for part in parts):
        raise InputError(
            f'--shapes: {text!r} is neither NxCIxCO nor BxCIxCOxSIDExKERNEL; give for example 1024x256x256'
        )
    return tuple(map(int, parts))


def matrix_of(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows, inner size and columns of a layer's forward product."""
    if len(shape) == 3:
        return shape
    batch, inner, columns, side, kernel = shape
    return batch * side**2, inner * kernel**2, columns


def product_arms(rows: int, inner: int, columns: int, bits: int, device: str) -> dict[str, dict[str, Callable]]:
    """Section -> arm -> call, for the product of a (rows, inner) matrix and a transposed (columns, inner) matrix."""
    from dinor1.blocks.shiftquant import ShiftQuantizer, int_matmul

    x, weight, grad = (
        torch.randn(shape, device=device) for shape in ((rows, inner), (columns, inner), (rows, columns))
    )
    # Quantize the operands.
    nearest, shift = ShiftQuantizer(bits, 1, rounding='nearest'), ShiftQuantizer(bits)
    x_codes, weight_codes = nearest(x).q, nearest(weight).q
    half_x, half_weight = x.bfloat16(), weight.bfloat16()
    quantized = shift(grad * torch.randn(columns, device=device).exp())

    def masked() -> torch.Tensor:
        total = None
        for h in range(quantized.groups):
            part = int_matmul(quantized.q * (quantized.shift == h).to(torch.int8), weight_codes)
            total = part if total is None else total.add_(part, alpha=1 << h)
        return total

    return {
        'product': {
            'float32': lambda: x @ weight.t(),
            'bfloat16': lambda: half_x @ half_weight.t(),
            'int8': lambda: int_matmul(x_codes, weight_codes.t()),
        },
        'shifted': {
            'float32': lambda: grad @ weight,
            'int8 without shifts': lambda: int_matmul(quantized.q, weight_codes),
            'int8, shifted before': lambda: int_matmul(quantized.preshifted(), weight_codes),
            'int8, one product per group': masked,
        },
        'quantize': {
            'gradient, ShiftQuant': lambda: shift(grad),
            'gradient, one scale': lambda: ShiftQuantizer(bits, 1)(grad),
            'activation, to nearest': lambda: nearest(x),
        },
    }


def step_arms(shape: tuple[int, ...], bits: int, device: str) -> dict[str, Callable]:
    """Arm -> call that runs forward and backward pass of a layer."""
    from dinor1.blocks.shiftquant import IntConv2d, IntLinear

    # Make the float32 layer and its input.
    if len(shape) == 3:
        rows, inner, columns = shape
        plain = nn.Linear(inner, columns).to(device)
        x, integer = torch.randn(rows, inner), IntLinear
    else:
        batch, inner, columns, side, kernel = shape
        plain = nn.Conv2d(inner, columns, kernel, padding=kernel // 2).to(device)
        x, integer = torch.randn(batch, inner, side, side).to(memory_format=torch.channels_last), IntConv2d
    grad = torch.randn_like(plain(x.to(device)))

    def step(layer: nn.Module, dtype: torch.dtype = torch.float32) -> Callable:
        leaf = x.to(device, dtype).requires_grad_()
        pull = grad.to(dtype)

        def call() -> None:
            leaf.grad = None
            layer.zero_grad()
            layer(leaf).backward(pull)

        return call

    # Make the integer layers from the float32 layer.
    options = dict(bits=(bits,) * 3, seed=0)
    return {
        'float32': step(plain),
        'bfloat16': step(copy.deepcopy(plain).bfloat16(), torch.bfloat16),
        'integer, int8': step(integer.from_float(plain, backend='int8', **options)),
        'integer, one scale': step(integer.from_float(plain, backend='int8', groups=1, **options)),
        'integer, simulated': step(integer.from_float(plain, backend='sim', **options)),
    }


def report(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Per arm: median milliseconds, and speedup over the first arm."""
    first = next(iter(seconds.values()))
    return {
        name: dict(
            milliseconds=1e3 * statistics.median(times),
            speedup=ratio(first, times),
        )
        for name, times in seconds.items()
    }


def main() -> None:
    args = parse_args()

    from dinor1.blocks.shiftquant import has_int_mm
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import write_json

    # Check the options.
    shapes = {text: parse_shape(text) for text in args.shapes}
    if args.rounds < 1:
        raise InputError(f'--rounds: must be at least 1, got {args.rounds}')
    if not 2 <= args.bits <= 8:
        raise InputError(f'--bits: must be from 2 to 8, got {args.bits}')
    devices = args.devices or ['cpu'] + ['cuda'] * torch.cuda.is_available()
    apply_timing_options(args, devices, '--devices')
    if any(not has_int_mm(torch.device(device).type) for device in devices):
        raise InputError(f'--devices: this torch has no int8 product on {" or ".join(devices)}')
    # Measure and report each device.
    record = dict(bits=args.bits, rounds=args.rounds, clock=args.clock, threads=torch.get_num_threads(), devices={})
    record.update(torch=torch.__version__, capability=torch.backends.cpu.get_cpu_capability())
    torch.manual_seed(0)
    for device in devices:
        name = processor_name() if device == 'cpu' else torch.cuda.get_device_name(device)
        record['devices'][device] = dict(name=name, shapes={})
        print(f'{name} ({device}), {args.bits} bits')
        print(markdown.table_head(['shape', 'what', 'arm', 'ms', 'times as fast as the first'], 'lllrr'))
        for text, shape in shapes.items():
            sections = product_arms(*matrix_of(shape), args.bits, device)
            if len(shape) == 5:
                # Leave out quantization: a convolution quantizes its input, which is smaller than this matrix.
                del sections['quantize']
            sections['step'] = step_arms(shape, args.bits, device)
            found = record['devices'][device]['shapes'][text] = {}
            for section, arms in sections.items():
                measured = take_turns(arms, args.rounds, device, args.clock, warmup=2)
                seconds = {arm: one.times for arm, one in measured.items()}
                found[section] = dict(results=report(seconds), seconds=seconds)
                for arm, row in found[section]['results'].items():
                    times = [f'{row["milliseconds"]:.2f}', f'{row["speedup"]:.2f}']
                    print(markdown.table_row([text, section, arm, *times]), flush=True)
    if args.out:
        write_json(record, args.out, indent=2)


if __name__ == '__main__':
    run_command(main)
