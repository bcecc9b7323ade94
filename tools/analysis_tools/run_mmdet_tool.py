#!/usr/bin/env python
"""Run an analysis tool of MMDetection on configs and results of this project.

Examples:
    python tools/test.py CONFIG CHECKPOINT --out pred.pkl
    python tools/analysis_tools/run_mmdet_tool.py confusion_matrix CONFIG pred.pkl OUT_DIR
    python tools/analysis_tools/run_mmdet_tool.py coco_error_analysis results.bbox.json OUT_DIR --ann ANN.json
    python tools/analysis_tools/run_mmdet_tool.py analyze_logs plot_curve RUN/vis_data/scalars.json --keys loss

These tools do not know our components if they are called directly. Without a name, or with an unknown name, this tool
lists the names. All arguments after the name, including --help, are passed to the MMDetection tool.
"""

import argparse
import difflib
import importlib.util
import os
import runpy
import sys
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('name', nargs='?', help='tool, without .py')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help="the tool's arguments")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    path = find_tool(args.name)
    # Draw figures without a display.
    os.environ.setdefault('MPLBACKEND', 'Agg')

    import dinor1

    dinor1.register_all()
    sys.argv = [str(path), *args.arguments]
    runpy.run_path(str(path), run_name='__main__')


def find_tool(name: str | None) -> Path:
    """Find a tool in MMDetection's package.

    Raises:
        InputError: there is no tool of this name.
    """
    from dinor1.utils.errors import InputError

    # Find the tools without importing MMDetection.
    package = Path(importlib.util.find_spec('mmdet').submodule_search_locations[0])
    tools = {path.stem: path for path in sorted((package / '.mim/tools/analysis_tools').glob('*.py'))}
    if name not in tools:
        near = difflib.get_close_matches(name or '', tools, n=1)
        hint = f'did you mean {near[0]!r}?' if near else f'there are {", ".join(tools) or "none in this MMDetection"}'
        raise InputError(f'{"no tool named" if name is None else f"{name}: no such tool"}; {hint}')
    return tools[name]


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
