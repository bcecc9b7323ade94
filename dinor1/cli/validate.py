"""Check annotation files in COCO, LVIS or ODVG format, and the images that they name.

Examples:
    dinor1 validate data/raccoon
    dinor1 validate annotations/train.json --img-dir train2017 --sample 1000
    dinor1 validate train.json --fix repaired.json

Errors make training or evaluation wrong; warnings are valid but often unintended. The exit status is 0 without
errors, 1 with errors, and 2 if nothing could be checked. With --fix it describes the repaired copy.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinor1.annotations import Checked, as_json, check_path, repair, summary, text_report, write
from dinor1.utils.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('path', type=Path, metavar='DIR_OR_JSON', help='annotation file, or folder of a data set')
    parser.add_argument(
        '--img-dir', type=Path, metavar='DIR', help='folder that file names are relative to (default: searched)'
    )
    parser.add_argument('--label-map', type=Path, metavar='FILE', help='label map of an ODVG file (default: searched)')
    parser.add_argument(
        '--fix', type=Path, metavar='OUT', help='write repaired annotations to this file, or for DIR to this folder'
    )
    parser.add_argument('--no-images', action='store_true', help='do not check images')
    parser.add_argument('--sample', type=int, metavar='N', help='open only N images per file, but check that all exist')
    parser.add_argument(
        '--max', type=int, default=5, metavar='N', help='cases shown of each kind of defect (default: %(default)s)'
    )
    parser.add_argument('--json', action='store_true', help='print the report as JSON, with all cases')


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    for name, value in (('--sample', args.sample), ('--max', args.max)):
        if value is not None and value < 0:
            raise InputError(f'{name} must not be negative, got {value}')
    # Check the files.
    outputs = targets(args.path, args.fix)
    results, skipped = check_path(
        args.path, args.img_dir, args.label_map, not args.no_images, args.sample, show_progress=sys.stderr.isatty()
    )
    if not args.json:
        print(text_report(results, args.max))
        if skipped:
            print(f'skipped, no boxes: {", ".join(map(str, skipped))}')
        print(summary(results))
    # Repair them.
    repaired = {}
    if outputs is not None:
        for checked in results:
            repaired |= write_repaired(checked, outputs(checked.content.path))
        if not args.json:
            left = [checked for checked in results if checked.errors]
            print(*filter(None, [text_report(left, args.max), f'after the repair: {summary(results)}']), sep='\n')
    # Report to programs.
    if args.json:
        print(json.dumps(as_json(results) | {'skipped': list(map(str, skipped)), 'repaired': repaired}, indent=1))
    sys.exit(int(any(checked.errors for checked in results)))


def write_repaired(checked: Checked, target: Path) -> dict[str, dict[str, Any]]:
    """Write a repaired copy and print what was done; write nothing if a defect must be corrected by hand."""
    try:
        done = repair(checked)
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return {}
    write(checked.content, target)
    print(f'{target} written; {done}', file=sys.stderr)
    return {str(target): dict(corrected=done.corrected, left_out=done.left_out)}


def targets(path: Path, out: Path | None) -> Callable[[Path], Path] | None:
    """Return a function that maps a file to the path of its repaired copy; None without ``--fix``."""
    if out is None:
        return None
    if out.resolve() == path.resolve():
        raise InputError(f'--fix {out}: is the input itself; give another path')
    if not path.is_dir() and out.is_dir():
        raise InputError(f'--fix {out}: is a folder, and the input is a file; give a file')
    return (lambda file: out / file.relative_to(path)) if path.is_dir() else (lambda file: out)
