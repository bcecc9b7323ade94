#!/usr/bin/env python
"""Measure a checkpoint on the icon world with all prompt protocols.

Examples:
    python tools/analysis_tools/measure_icons.py CONFIG CHECKPOINT --out work_dirs/run1/icons.json
    python tools/analysis_tools/measure_icons.py CONFIG CHECKPOINT --splits test_novel test_style --out FILE.json
    python tools/analysis_tools/measure_icons.py CONFIG CHECKPOINT --draws 1=8 4=3 16=1 --out FILE.json
    python tools/analysis_tools/measure_icons.py CONFIG CHECKPOINT --out FILE --cfg-options model.test_cfg.nms.type=nms
"""

import argparse
import time

from dinor1.cli.options import ConfigOptions


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, or name of a config of dinor1')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', required=True, metavar='FILE.json', help='result file')
    parser.add_argument('--data', help='folder of the icon world (default: that of the config)')
    parser.add_argument('--splits', nargs='+', default=['val_novel'], help='splits (default: val_novel)')
    parser.add_argument(
        '--draws',
        nargs='+',
        default=['1=8', '4=3', '16=1'],
        metavar='N=DRAWS',
        help='exemplars per class, and draws over which results are averaged (default: 1=8 4=3 16=1)',
    )
    parser.add_argument(
        '--interactive-draws', type=int, default=3, help='draws of prompts on the images themselves (default: 3)'
    )
    parser.add_argument('--prefix', help='text before the names of the metrics, such as rescored (default: none)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override settings of the config'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.studies.icon_protocols import measure_icons
    from dinor1.studies.trained_detector import trained_detector
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import check_output, write_json

    # Check the options.
    check_output(args.out, '--out')
    try:
        draws = {int(count): int(number) for count, _, number in (text.partition('=') for text in args.draws)}
    except ValueError:
        raise InputError(f'--draws {" ".join(args.draws)}: expected N=DRAWS, such as 1=8') from None
    # Measure each split.
    model, cfg = trained_detector(args.config, args.checkpoint, args.cfg_options)
    root = args.data or cfg.data_root
    metrics, start = {}, time.process_time()
    for split in args.splits:
        scores = measure_icons(
            root,
            model,
            cfg,
            split,
            draws,
            args.interactive_draws,
            progress=lambda line: print(f'{line} ({time.process_time() - start:.0f} s)', flush=True),
        )
        prefix = f'{args.prefix}/{split}' if args.prefix else split
        metrics |= {f'{prefix}/{key}': value for key, value in scores.items()}
    write_json(dict(metrics=metrics), args.out, indent=1)
    print(f'Measures: {args.out}')


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
