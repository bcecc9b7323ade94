"""Start the command line. An interruption while modules are imported is reported in one line, as any other."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, tool: str | None = None) -> None:
    """Run a command, see :func:`dinor1.cli.main.main`; Ctrl-C ends it with one line and status 130."""
    try:
        # Imported here, because importing takes long enough to be interrupted.
        from dinor1.cli import main as command_line

        command_line.main(arguments, tool)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
