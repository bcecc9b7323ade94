"""The command ``dinor1``, and the tools under MMDetection's names."""

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

import argcomplete

import dinor1
from dinor1.cli import adapt, annotate, bank, convert, detect, make_data, study, test, train, validate, verify_published
from dinor1.cli.exit_status import run_command

COMMANDS: dict[str, ModuleType] = {
    'train': train,
    'test': test,
    'detect': detect,
    'annotate': annotate,
    'bank': bank,
    'adapt': adapt,
    'validate': validate,
    'convert': convert,
    'make-data': make_data,
    'study': study,
    'verify-published': verify_published,
}


def main(arguments: Sequence[str] | None = None, tool: str | None = None) -> None:
    """Run a command; user errors print one line and end with status 2.

    Args:
        arguments: Arguments of the command line, beginning with the name of a command. Default: those of this process.
        tool: Name of the command, for tools that run a single command; ``arguments`` then begin with its options.
    """
    parser = build_parser() if tool is None else _describe(argparse.ArgumentParser(), COMMANDS[tool])
    argcomplete.autocomplete(parser)
    args = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    run_command(lambda: args.run(args))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``dinor1``."""
    parser = argparse.ArgumentParser(
        'dinor1',
        description='Find objects by example.',
        epilog='`dinor1 COMMAND --help` describes a command.',
        allow_abbrev=False,
    )
    parser.add_argument('--version', action='version', version=f'dinor1 {dinor1.__version__}')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or '').splitlines()[0]
        _describe(commands.add_parser(name, help=summary), module)
    return parser


def _describe(parser: argparse.ArgumentParser, module: ModuleType) -> argparse.ArgumentParser:
    """Add description and options of a command to its parser."""
    parser.description, parser.formatter_class = module.__doc__, argparse.RawDescriptionHelpFormatter
    parser.allow_abbrev = False
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser
