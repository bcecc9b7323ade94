#!/usr/bin/env python
"""Check the kernels of deformable attention on a GPU and time them, in less than 8 minutes.

Outputs and gradients of every backend are compared with the reference in double precision, for unusual sizes,
non-finite numbers and all precisions. Deterministic gradients must be bitwise identical, and torch.compile must trace
one operator. Then our backends, the compiled reference and, if installed, MMCV's operator, msda-triton and deformops
alternate on the workloads of a detector. The results are printed as a table and written to a JSON file. The exit
status is 1 if a check failed, and 2 if there is no GPU.

The cases come from the tests: run this tool from a checkout. The other requirements of the tests are not needed.

Examples:
    python tools/analysis_tools/gpu_check.py --out work_dirs/gpu_check.json
    python tools/analysis_tools/gpu_check.py --interpret      # no GPU: checks alone, in Triton's interpreter
"""

import argparse
import dataclasses
import itertools
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from dinor1.cli.exit_status import run_command

ROOT = Path(__file__).resolve().parents[2]
# Benchmarks, the most important first, because a slow machine may not reach the last: workload, dtype, batch size, and
# whether the reference is compiled, which takes half a minute.
BENCHMARKS = (
    ('encoder', torch.bfloat16, 1, True),
    ('encoder', torch.float32, 1, True),
    ('decoder', torch.bfloat16, 1, False),
    ('encoder', torch.bfloat16, 8, False),
    ('encoder', torch.float16, 1, False),
    ('decoder', torch.bfloat16, 8, False),
    ('encoder', torch.float32, 8, False),
    ('decoder', torch.float32, 1, False),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--interpret', action='store_true', help="checks only, on a CPU, in Triton's interpreter")
    parser.add_argument('--minutes', type=float, default=7.0, help='start no measurement after this time (default: 7)')
    parser.add_argument('--rounds', type=int, default=20, help='timed rounds of every arm (default: 20)')
    parser.add_argument('--checks-only', action='store_true', help='check without timing')
    parser.add_argument('--sweep', action='store_true', help='also time the launch options of the kernels')
    parser.add_argument('--out', metavar='FILE.json', help='also write everything to a file')
    return parser.parse_args()


def find_tests() -> None:
    """Let ``import tests`` find the folder of this checkout, even if another package of that name is installed."""
    folder = str(ROOT / 'tests')
    if folder not in getattr(sys.modules.get('tests'), '__path__', ()):
        sys.modules['tests'] = types.ModuleType('tests')
        sys.modules['tests'].__path__ = [folder]


def large_cases() -> list:
    """Cases with the width of a detector; the small cases are for the interpreter too."""
    from tests.ops.attention_cases import TOLERANCES, Case

    sizes = dict(shapes=((25, 42), (13, 21), (7, 11), (4, 6)), batch=2, queries=300, heads=8, channels=32, points=4)
    kinds = ('given', 'points', 'boxes')
    cases = [Case(f'{kind} {str(dtype)[6:]} large', kind, dtype, **sizes) for kind in kinds for dtype in TOLERANCES]
    return cases + [dataclasses.replace(cases[1], name='given wide heads', channels=200)]


def check_cases(backends: tuple[str, ...], cases: list, device: str) -> Iterator[dict]:
    """Yield one row per backend and case: the largest difference and its limit."""
    from tests.ops.attention_cases import TOLERANCES, differences

    for backend in backends:
        for case in cases:
            try:
                largest, error = max(differences(case, backend, device).values()), ''
            except Exception as failure:  # continue with the other checks: a GPU or Triton may raise any exception
                largest, error = float('inf'), f'{type(failure).__name__}: {str(failure).strip()[-300:]}'
            limit = TOLERANCES[case.dtype]
            yield dict(check=f'{backend}: {case.name}', ok=largest <= limit, largest=largest, limit=limit, error=error)


def _call(dtype: torch.dtype = torch.float32):
    from dinor1.benchmarks.op_benchmark import WORKLOADS, make_call

    return make_call(WORKLOADS['encoder'], 1, dtype, 'cuda')


def _gradients(call, deterministic: bool) -> list[torch.Tensor]:
    from dinor1.ops import ms_deform_attn_predicted

    leaves = [t.detach().requires_grad_() for t in (call.value, *call.predictions)]
    output = ms_deform_attn_predicted(
        leaves[0], call.shape_tensor, call.start_tensor, *leaves[1:], deterministic=deterministic
    )
    return [output, *torch.autograd.grad(output.square().sum(), leaves)]


def check_repeats() -> bool:
    """Check that deterministic gradients are bitwise repeatable, and equal those of atomic sums up to rounding."""
    call = _call()
    first, second, atomic = (_gradients(call, deterministic) for deterministic in (True, True, False))
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    return same and all(
        ((a - b).abs().max() <= 1e-4 * a.abs().max()).item() for a, b in zip(first, atomic, strict=True)
    )


def check_wrong_levels() -> bool:
    """Check that wrong levels, which are not validated on a GPU, do not read memory beside the features (NaN here)."""
    call = _call()
    beside = torch.full_like(call.value, float('nan'))
    call.value = torch.cat((beside, call.value, beside))[1:2]
    call.shape_tensor, call.start_tensor = 3 * call.shape_tensor, 2 * call.start_tensor + 5
    return all(tensor.isfinite().all().item() for tensor in _gradients(call, False))


def check_operator() -> bool:
    """Run torch's check of custom operators: schema, fake kernel, autograd, dynamic shapes."""
    from dinor1.ops.ms_deform_attn.library import ms_deform_attn_op, ms_deform_attn_predicted_op
    from tests.ops.attention_cases import Case, make_inputs

    for kind, operator in (('given', ms_deform_attn_op), ('boxes', ms_deform_attn_predicted_op)):
        case = Case(kind, kind)
        value, starts, inputs = make_inputs(case, 'cuda')
        levels = [torch.tensor(numbers, device='cuda') for numbers in (case.shapes, starts)]
        leaves = [t.requires_grad_() for t in (value, *inputs)]
        torch.library.opcheck(operator, (leaves[0], *levels, *leaves[1:], False, 'auto'))
    return True


def check_compile() -> bool:
    """Check that torch.compile makes a single graph, with the output and the gradients of eager mode."""
    from dinor1.ops import ms_deform_attn_predicted

    # Compute output and gradients in eager mode.
    call = _call()
    expected = _gradients(call, True)
    leaves = [t.detach().requires_grad_() for t in (call.value, *call.predictions)]
    # Compare with the compiled function.
    compiled = torch.compile(ms_deform_attn_predicted, fullgraph=True)
    output = compiled(leaves[0], call.shape_tensor, call.start_tensor, *leaves[1:], deterministic=True)
    got = [output, *torch.autograd.grad(output.square().sum(), leaves)]
    return all(((a - b).abs().max() <= 1e-5 * a.abs().max()).item() for a, b in zip(expected, got, strict=True))


SINGLE_CHECKS: tuple[Callable[[], bool], ...] = (check_repeats, check_wrong_levels, check_operator, check_compile)


def run_checks(checks: Iterator[dict], rows: list[dict], save: Callable[[], None], deadline: float) -> None:
    """Append the checks to ``rows``; print the failed ones, and the number of passed ones."""
    for row in checks:
        rows.append(row)
        # Save after every check, because a faulty kernel may end the process.
        save()
        if not row['ok']:
            print(f'FAILED {row["check"]}: {row["largest"]:.1e} > {row["limit"]:.0e} {row["error"]}', flush=True)
        if time.monotonic() > deadline:
            print('no time left for further checks', flush=True)
            break
    print(f'{sum(row["ok"] for row in rows)} of {len(rows)} checks passed', flush=True)


def single_checks() -> Iterator[dict]:
    """Yield a row per check of :data:`SINGLE_CHECKS`, which do not compare with the reference."""
    for check in SINGLE_CHECKS:
        try:
            ok, error = check(), ''
        except Exception as failure:  # see check_cases
            ok, error = False, f'{type(failure).__name__}: {str(failure).strip()[-300:]}'
        yield dict(check=check.__name__, ok=ok, largest=0.0 if ok else float('inf'), limit=0.0, error=error)


def benchmark(rounds: int, deadline: float) -> list[dict]:
    """Time all arms on :data:`BENCHMARKS`, and print the table."""
    from dinor1.benchmarks.op_benchmark import PASSES, WORKLOADS, Timing, arms, ceilings, least_work, measure
    from dinor1.utils.markdown import table_head, table_row

    heads = ['workload', 'dtype', 'batch', 'pass', 'arm', 'ms', 'relative', 'gathered GB/s', 'peak MiB']
    print(table_head(heads, 'llrllrrrr'))
    records = []
    timing = Timing('cuda', rounds, calls_per_round=10, deadline=deadline)
    for name, dtype, batch, with_compile in BENCHMARKS:
        workload, short = WORKLOADS[name], str(dtype)[6:]
        # Skip the benchmark if the time is over.
        if time.monotonic() > deadline:
            print(f'no time left for {name} {short} batch {batch}', flush=True)
            continue
        # Measure both passes.
        work, roof = least_work(workload, batch, dtype), ceilings(workload, dtype, 'cuda')
        for kind in PASSES:
            implementations = arms('cuda', with_compile)
            for row in measure(workload, batch, dtype, kind, implementations, timing):
                cells = [row['error'], '', '', ''] if row.get('error') else _cells(row, kind, work)
                print(table_row([name, short, batch, kind, row['arm'], *cells]), flush=True)
                records.append(
                    dict(workload=name, dtype=short, batch=batch, kind=kind, **row, least_work=work, roof=roof)
                )
            torch.cuda.empty_cache()
    return records


def _cells(row: dict, kind: str, work: dict) -> tuple[str, ...]:
    speed = f'{work["bytes_gathered"] / row["milliseconds"] / 1e6:.0f}' if kind == 'forward' else ''
    relative = '' if row['relative'] is None else f'{row["relative"]:.3f}'
    return f'{row["milliseconds"]:.3f}', relative, speed, f'{row["peak_mib"]:.0f}'


def sweep(deadline: float) -> list[dict]:
    """Time the kernels' launch options on the encoder in bfloat16."""
    from dinor1.benchmarks.timing import timed
    from dinor1.ops.ms_deform_attn import triton_launch
    from dinor1.ops.ms_deform_attn.sampling import Operands

    call = _call(torch.bfloat16)
    operands = Operands(call.value, call.shape_tensor, call.start_tensor, call.predictions)
    output = triton_launch.forward(operands)
    records = []
    for block in (4, 8, 16, 32, 64):
        for warps in (1, 2, 4, 8):
            # Skip launches that need too many registers per thread.
            if block > 32 * warps:
                continue
            if time.monotonic() > deadline:
                return records
            # Time both passes.
            options = dict(BLOCK_Q=block, num_warps=warps)
            passes = {
                'forward': lambda o=options: triton_launch.forward(operands, o),
                'backward': lambda o=options: triton_launch.backward(output, operands, output, options=o),
            }
            record = dict(options)
            for name, step in passes.items():
                record[name] = 1e3 * min(timed(step, 'cuda', seconds=0.05).times)
            records.append(record)
            print(f'sweep {record}', flush=True)
    return records


def main() -> None:
    args = parse_args()
    if args.interpret and os.environ.get('TRITON_INTERPRET') != '1':
        # Start a new process: Triton reads this variable only when it is imported, which may have happened already.
        environment = os.environ | {'TRITON_INTERPRET': '1'}
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)

    find_tests()

    from dinor1.benchmarks.machine import machine
    from dinor1.ops.ms_deform_attn.backends import why_not_triton
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import write_json
    from tests.ops.attention_cases import all_cases

    # Check the options.
    if args.rounds < 1 or args.minutes <= 0:
        raise InputError('--rounds must be at least 1 and --minutes positive')
    if not args.interpret and not torch.cuda.is_available():
        raise InputError('there is no GPU on this machine; add --interpret for the checks that need none')
    device = 'cpu' if args.interpret else 'cuda'
    if reason := why_not_triton(device):
        raise InputError(f'{reason}; install it with: pip install triton')
    deadline = time.monotonic() + 60 * args.minutes
    record: dict = dict(checks=[])

    def save() -> None:
        if args.out:
            write_json(record, args.out, indent=2)

    # Collect the checks and run them.
    if args.interpret:
        cases = all_cases()
        groups = [check_cases(('triton',), cases, device)]
        record['planned'] = len(cases)
    else:
        record['machine'] = machine()
        print(', '.join(f'{key} {value}' for key, value in record['machine'].items()))
        cases = all_cases() + large_cases()
        groups = [check_cases((name,), cases, device) for name in ('triton', 'embedding_bag')]
        groups.insert(1, single_checks())
        record['planned'] = 2 * len(cases) + len(SINGLE_CHECKS)
    run_checks(itertools.chain(*groups), record['checks'], save, deadline)
    # Time the kernels.
    if not args.interpret:
        if args.sweep:
            record['sweep'] = sweep(min(deadline, time.monotonic() + 90))
        if not args.checks_only:
            record['benchmarks'] = benchmark(args.rounds, deadline)
    save()
    if args.out:
        print(f'Written: {args.out}')
    if not all(row['ok'] for row in record['checks']):
        sys.exit(1)


if __name__ == '__main__':
    run_command(main)
