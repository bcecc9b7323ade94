"""Options that several commands share, and checks of numbers."""

import argparse
import ast
import contextlib
import os
import re
from collections.abc import Sequence
from typing import Any

from dinor1.utils.config_files import config_names
from dinor1.utils.errors import InputError

_DICT = re.compile(r'\bdict\(|\{')


class ConfigOptions(argparse.Action):
    """Parses ``KEY=VALUE ...`` with MMEngine's syntax of values, with blanks and with dicts.

    A value is a number, ``True``, ``False``, ``None``, text, or a list or tuple of such values: ``1,2``, ``[a b, c]``,
    ``[(1, 2), (3, 4)]``. A value that contains ``dict(...)`` or ``{...}`` is read as Python:
    ``custom_hooks=[dict(type='EMAHook')]``. MMEngine's own parser removes blanks from texts, and has no dicts.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Parse the values; called by ``argparse``."""
        options = dict(getattr(namespace, self.dest, None) or {})
        for item in values or ():
            # Check the syntax.
            key, separator, value = item.partition('=')
            key = key.strip()
            if not separator or not key:
                raise argparse.ArgumentError(self, f'expected KEY=VALUE, got {item!r}')
            # Read the value.
            try:
                options[key] = _read_python(value) if _DICT.search(value) else _read_value(value)
            except _UnbalancedError:
                raise argparse.ArgumentError(self, f'Imbalanced brackets exist in {value}') from None
            except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
                raise argparse.ArgumentError(self, f'{key}: not a Python value: {value!r}') from None
        setattr(namespace, self.dest, options)


class _UnbalancedError(ValueError):
    """A bracket without a matching bracket."""


def _read_value(text: str) -> Any:
    """Value of a text in MMEngine's syntax; blanks within a text are kept.

    Raises:
        _UnbalancedError: brackets do not match.
    """
    # A list or a tuple: split it at the commas outside of inner brackets.
    text = text.strip().strip('\'"')
    whole = text.startswith(('(', '[')) and len(_split(text)) == 1
    if whole or ',' in text:
        parts = _split(text[1:-1] if whole else text)
        # A comma at the end adds no element.
        elements = [_read_value(part) for part in (parts if parts[-1].strip() else parts[:-1])]
        return tuple(elements) if whole and text[0] == '(' else elements
    # A single value.
    for convert in (int, float):
        with contextlib.suppress(ValueError):
            return convert(text)
    return {'true': True, 'false': False}.get(text.lower(), None if text == 'None' else text)


def _split(text: str) -> list[str]:
    """Parts of a text between the commas that are outside of brackets.

    Raises:
        _UnbalancedError: brackets do not match.
    """
    # Split at commas while no bracket is open.
    parts, open_brackets = [''], []
    for character in text:
        if character in '([':
            open_brackets.append(character)
        elif character in ')]' and (not open_brackets or open_brackets.pop() + character not in ('()', '[]')):
            raise _UnbalancedError
        if character == ',' and not open_brackets:
            parts.append('')
        else:
            parts[-1] += character
    if open_brackets:
        raise _UnbalancedError
    return parts


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
