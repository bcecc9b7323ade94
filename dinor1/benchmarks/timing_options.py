"""Options of the tools that measure times: rounds, threads and clock."""

import argparse
from collections.abc import Sequence

import torch

from dinor1.benchmarks.timing import CLOCKS
from dinor1.utils.errors import InputError


def add_timing_options(parser: argparse.ArgumentParser, rounds: int, what: str) -> None:
    """Add ``--rounds``, ``--threads`` and ``--clock``.

    Args:
        parser: Parser of the tool.
        rounds: Default of ``--rounds``.
        what: Name of the timed calls in the help, such as ``calls of every arm``.
    """
    parser.add_argument('--rounds', type=int, default=rounds, help=f'timed {what} (default: {rounds})')
    parser.add_argument('--threads', type=int, help="torch's threads on a CPU (default: torch's)")
    parser.add_argument(
        '--clock',
        choices=list(CLOCKS),
        default='wall',
        help='cpu: count only the processor time of this process, for a machine with other load; needs '
        '--threads 1, and no GPU (default: wall)',
    )


def apply_timing_options(args: argparse.Namespace, devices: Sequence[str], option: str = '--device') -> None:
    """Check the options before the first measurement, and set torch's threads.

    Args:
        args: Parsed arguments with ``threads`` and ``clock``.
        devices: Devices of the measurements.
        option: Name of the user's option for the devices.

    Raises:
        InputError: a device does not exist, or an option is out of range or does not work with the devices.
    """
    if args.threads is not None and args.threads < 1:
        raise InputError(f'--threads: must be at least 1, got {args.threads}')
    if not torch.cuda.is_available() and any(device != 'cpu' for device in devices):
        raise InputError(f'{option} {" ".join(devices)}: there is no GPU on this machine; use cpu')
    if args.clock == 'cpu' and (set(devices) != {'cpu'} or args.threads != 1):
        raise InputError(f'--clock cpu: needs a single thread on a CPU; add {option} cpu --threads 1')
    if args.threads is not None:
        torch.set_num_threads(args.threads)
