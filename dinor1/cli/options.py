"""Options that several commands share, and checks of numbers."""

import argparse
import ast
import os
import re
from collections.abc import Sequence
from typing import Any

from dinor1.utils.config_files import config_names
from dinor1.utils.errors import InputError

_DICT = re.compile(r'\bdict\(|\{')


class ConfigOptions(argparse.Action):
    """Parses ``KEY=VALUE ...`` with MMEngine's syntax of values, and with dicts.

    A value that contains ``dict(...)`` or ``{...}`` is read as Python: ``custom_hooks=[dict(type='EMAHook')]``.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Parse the values; called by ``argparse``."""
        # Check the syntax.
        for item in values or ():
            key, separator, _ = item.partition('=')
            if not separator or not key.strip():
                raise argparse.ArgumentError(self, f'expected KEY=VALUE, got {item!r}')
        # Read values with dicts, which MMEngine's parser does not support.
        dicts = {}
        for item in values or ():
            key, _, value = item.partition('=')
            if _DICT.search(value):
                try:
                    dicts[key] = _read_python(value)
                except (SyntaxError, ValueError):
                    raise argparse.ArgumentError(self, f'{key}: not a Python value: {value!r}') from None
        # Let MMEngine parse the other values.
        others = [item for item in values or () if item.partition('=')[0] not in dicts]
        from mmengine.config import DictAction  # Imported here, so that --help needs no MMEngine.

        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, others, option_string)
        except AssertionError as error:  # unbalanced brackets
            raise argparse.ArgumentError(self, str(error)) from None
        getattr(namespace, self.dest).update(dicts)


def _read_python(text: str) -> Any:
    """Evaluate a Python literal, in which ``dict(key=value)`` means ``{'key': value}``.

    Raises:
        SyntaxError, ValueError: the text is not a literal.
    """
    tree = ast.parse(text.strip(), mode='eval')
    return ast.literal_eval(_DictCalls().visit(tree))


class _DictCalls(ast.NodeTransformer):
    """Replaces calls ``dict(key=value)`` by literals."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        named = all(keyword.arg is not None for keyword in node.keywords)
        if not (isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args and named):
            return node
        return ast.Dict([ast.Constant(keyword.arg) for keyword in node.keywords], [k.value for k in node.keywords])


def complete_config(prefix: str, **_: Any) -> list[str]:
    """Complete the name of a config of dinor1, or of a config file; called by argcomplete."""
    from argcomplete import FilesCompleter

    return [name for name in config_names() if name.startswith(prefix)] + list(FilesCompleter(['py'])(prefix))


def add_config(parser: argparse.ArgumentParser, text: str = 'config file, or name of a config of dinor1') -> None:
    """Add the positional argument ``config``."""
    parser.add_argument('config', help=text).completer = complete_config  # type: ignore[attr-defined]


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument ``checkpoint``."""
    parser.add_argument('checkpoint', help='checkpoint file')


def add_data(parser: argparse.ArgumentParser, split: str) -> None:
    """Add ``--data``, which replaces the data sets of a config."""
    parser.add_argument(
        '--data',
        metavar='FOLDER',
        help=f'{split} on the images of FOLDER and its COCO annotations, such as annotations/{split}.json',
    )


def add_detector(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--checkpoint``; without both, the released detector is used."""
    config = parser.add_argument(
        '--config', help='config that the checkpoint was trained with (default: that of the released detector)'
    )
    config.completer = complete_config  # type: ignore[attr-defined]
    parser.add_argument('--checkpoint', help='checkpoint file, or name of released weights (default: lite)')


def require_detector(args: argparse.Namespace) -> None:
    """Raise an error if ``--config`` is given without ``--checkpoint``, or a checkpoint file without its config.

    Raises:
        InputError: one of them is missing.
    """
    if args.config is not None and args.checkpoint is None:
        raise InputError('--config: needs --checkpoint; give both, or neither for the released detector')
    if args.config is None and args.checkpoint is not None and os.path.isfile(args.checkpoint):
        raise InputError(f'--checkpoint {args.checkpoint}: needs the --config that it was trained with')


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override settings of the config'
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every run of MMEngine's Runner: ``--cfg-options``, ``--launcher`` and the local rank."""
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher (default: none)'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def set_local_rank(args: argparse.Namespace) -> None:
    """Set the environment variable LOCAL_RANK to the launcher's argument, unless the launcher has set it."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))


def require_at_least(least: float, args: argparse.Namespace, *names: str) -> None:
    """Raise an error for options below ``least``; None means that an option was not given.

    Args:
        least: Smallest value that is allowed.
        args: The parsed command line.
        names: Attributes of ``args``.

    Raises:
        InputError: an option is smaller.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise InputError(f'--{name.replace("_", "-")} must be at least {least}, got {value}')
