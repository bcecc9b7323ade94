"""Options of the command line: those of every run, ``--cfg-options KEY=VALUE``, and checks of numbers."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction

from dinor1.utils.errors import InputError


class ConfigOptions(DictAction):
    """MMEngine's action, with an error of ``argparse`` for a value that is not ``KEY=VALUE``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[Any],
        option_string: str | None = None,
    ) -> None:
        """Parse the values; called by ``argparse``."""
        for item in values:
            key, separator, _ = item.partition('=')
            if not separator or not key.strip():
                raise argparse.ArgumentError(self, f'expected KEY=VALUE, got {item!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # brackets that do not match
            raise argparse.ArgumentError(self, str(error)) from None


def parse_run_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add the options of every run of MMEngine's Runner, and parse the command line.

    They are ``--cfg-options``, ``--launcher``, and the local rank, which a launcher gives as an argument or in the
    environment.
    """
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override settings of the config'
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher (default: none)'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def require_at_least(least: float, args: argparse.Namespace, *names: str) -> None:
    """Raise an error for options below ``least``; None means that an option was not given.

    Args:
        least: Smallest value that is allowed.
        args: The parsed command line.
        names: Attributes of ``args``.

    Raises:
        InputError: one is smaller.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise InputError(f'--{name.replace("_", "-")} must be at least {least}, got {value}')
