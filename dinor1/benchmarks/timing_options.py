"""Options of the command lines that time something: rounds, threads and clock."""

import argparse
from collections.abc import Sequence

import torch

from dinor1.benchmarks.timing import CLOCKS
from dinor1.utils.errors import InputError


def add_timing_options(parser: argparse.ArgumentParser, rounds: int, what: str) -> None:
    """Add ``--rounds``, ``--threads`` and ``--clock``.

    Args:
        parser: Gets them.
        rounds: Default of ``--rounds``.
        what: What is timed in a round, for the help.
    """
    parser.add_argument('--rounds', type=int, default=rounds, help=f'timed {what} (default: {rounds})')
    parser.add_argument('--threads', type=int, help="torch's threads on a CPU (default: torch's)")
    parser.add_argument(
        '--clock',
        choices=list(CLOCKS),
        default='wall',
        help='cpu: count the time that this process had a processor, for a machine that others use, too; needs '
        '--threads 1, and no GPU (default: wall)',
    )


def apply_timing_options(args: argparse.Namespace, devices: Sequence[str], option: str = '--device') -> None:
    """Check the options before the first measurement, and set torch's threads.

    Args:
        args: Parsed arguments with ``threads`` and ``clock``.
        devices: Where things are timed.
        option: Name of the user's option for these.

    Raises:
        InputError: a device is not there, or an option is out of range or does not suit the devices.
    """
    if args.threads is not None and args.threads < 1:
        raise InputError(f'--threads: must be at least 1, got {args.threads}')
    if not torch.cuda.is_available() and any(device != 'cpu' for device in devices):
        raise InputError(f'{option} {" ".join(devices)}: there is no GPU on this machine; use cpu')
    if args.clock == 'cpu' and (set(devices) != {'cpu'} or args.threads != 1):
        raise InputError(f'--clock cpu: counts one thread on CPU alone; add {option} cpu --threads 1')
    if args.threads is not None:
        torch.set_num_threads(args.threads)
