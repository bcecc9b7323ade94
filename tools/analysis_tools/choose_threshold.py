#!/usr/bin/env python
"""Choose the score threshold of a detector: the best mean F1 over several sets, without the exemplars.

Every image is prompted with one of its own boxes per class. The detector has to find the other boxes.

Example:
    python tools/analysis_tools/choose_threshold.py CONFIG CKPT data/raccoon data/bccd --splits val
"""

import argparse
from pathlib import Path

THRESHOLDS = [0.02, 0.03, 0.05, 0.07, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, or name of a config of dinor1')
    parser.add_argument('checkpoint', help='checkpoint')
    parser.add_argument('sets', nargs='+', help='folders with images and annotations/SPLIT.json')
    parser.add_argument('--splits', nargs='+', default=['val'], help='splits to use (default: val)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    import numpy as np

    from dinor1.studies.protocol_detectors import threshold_curve
    from dinor1.studies.trained_detector import trained_detector
    from dinor1.utils.markdown import table

    # Compute the curve of each set.
    model, cfg = trained_detector(args.config, args.checkpoint)
    curves = {Path(root).name: threshold_curve(root, model, cfg, THRESHOLDS, args.splits) for root in args.sets}
    # Print the curves, and the threshold of the best mean.
    mean = np.mean(list(curves.values()), axis=0)
    rows = [[name, *(f'{value:.3f}' for value in curve)] for name, curve in (curves | {'**mean**': mean}).items()]
    print(table(['set', *(f'{threshold:g}' for threshold in THRESHOLDS)], rows))
    print(f'Best threshold: {THRESHOLDS[int(mean.argmax())]:g}')


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
