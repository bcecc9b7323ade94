#!/usr/bin/env python
"""Make the ODinW tables from the result files of tools/test_odinw.py: one table per protocol, one column per arm.

Examples:
    python tools/analysis_tools/odinw_table.py work_dirs/odinw/zero-shot work_dirs/odinw/fine-tuned
    python tools/analysis_tools/odinw_table.py work_dirs/odinw/* --update docs/research/small_photographs.md
"""

import argparse

from dinor1.cli.exit_status import run_command
from dinor1.evaluation.odinw.benchmark import LAYOUTS, load_sets
from dinor1.evaluation.odinw.summary import read_results, summarize
from dinor1.evaluation.odinw.tables import tables
from dinor1.evaluation.protocol_names import PROTOCOLS, VISUAL_GENERIC, VISUAL_INTERACTIVE
from dinor1.studies.study import insert

NAME = 'odinw'


def report(folders: list[str]) -> str:
    """Tables, notes on their numbers, and the commands that made them.

    Raises:
        InputError: a folder has no result or a broken one, or two folders have the same run.
    """
    # Read the results, and order the sets as in their layouts.
    results = [result for folder in folders for result in read_results(folder)]
    order = [name for layout in LAYOUTS for name in load_sets(layout)]
    parts = [tables(summarize(results, order)), '\n'.join(_notes(results, order))]
    # Add the commands, each once.
    commands = dict.fromkeys(result['suite_command'] for result in results if result.get('suite_command'))
    if commands:
        parts.append('\n'.join(['```bash', *commands, '```']))
    return '\n\n'.join(part for part in parts if part)


def _notes(results: list[dict], order: list[str]) -> list[str]:
    # Describe the protocols.
    notes = []
    protocols = {result['protocol']['protocol'] for result in results}
    if VISUAL_INTERACTIVE in protocols and len(protocols) > 1:
        notes.append(
            '- Visual-I is given a box of each class that the test image shows, and no other class: the easier '
            'protocol, never averaged with the others.'
        )
    # List sets that differ from the official ones.
    deviations = {result['set']: result['deviation'] for result in results if result['deviation']}
    for name in sorted(deviations, key=lambda name: order.index(name) if name in order else len(order)):
        notes.append(f'- `{name}`: {deviations[name]}')
    # List classes without an exemplar.
    unprompted: dict[str, dict[str, None]] = {}
    for result in results:
        unprompted.setdefault(result['set'], {}).update(dict.fromkeys(result.get('without_exemplar', [])))
    for name, classes in unprompted.items():
        if classes:
            title = PROTOCOLS[VISUAL_GENERIC].title
            notes.append(
                f'- `{name}`, {title}: no training instance of {", ".join(classes)}: not offered, and counted as '
                'missed where the evaluated split has them.'
            )
    warnings = dict.fromkeys(warning for result in results for warning in result.get('warnings', []))
    return notes + [f'- Counts differ from the manifest: {warning}.' for warning in warnings]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folders', nargs='+', help='--out-dir of tools/test_odinw.py, one per arm')
    parser.add_argument('--update', metavar='FILE.md', help=f'write between <!-- {NAME}:begin --> and :end')
    args = parser.parse_args()
    text = report(args.folders)
    if args.update:
        insert(args.update, NAME, text)
    print(text)


if __name__ == '__main__':
    run_command(main)
