"""Functions that the tools on annotation files share.

These tools do not import MMDetection, which would take longer than most of them run.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dinor1.annotations.convert import to_odvg
from dinor1.cli.exit_status import one_line_errors


def run(main: Callable[[], None]) -> None:
    """Run a tool's ``main``; bad input ends it with one line and status 2, as :func:`dinor1.cli.run_tool.run_tool`."""
    with one_line_errors():
        main()


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the docstring of a tool unchanged."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def convert_to_odvg(description: str | None, source_format: str) -> None:
    """Main function of the tools ``coco2odvg`` and ``lvis2odvg``."""
    arguments = parser(description)
    arguments.add_argument('source', type=Path, metavar='IN.json', help=f'{source_format} file')
    arguments.add_argument('out', type=Path, metavar='OUT.jsonl', help='ODVG file to write')
    arguments.add_argument(
        '--label-map', type=Path, metavar='FILE', help='where names go (default: OUT_label_map.json beside OUT)'
    )
    args = arguments.parse_args()
    lines, left_out = to_odvg(args.source, args.out, source_format, args.label_map)
    print(f'{lines:,} images written to {args.out}; left out: {counts(left_out)}')


def counts(reasons: Counter) -> str:
    """``2 x crowd, 1 x box without area``; ``nothing`` without a reason."""
    return ', '.join(f'{count:,} x {reason}' for reason, count in sorted(reasons.items()) if count) or 'nothing'
