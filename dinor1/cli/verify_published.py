"""Compute the published AP of MM-Grounding-DINO-T on COCO val2017 from its public weights, and compare.

Examples:
    dinor1 verify-published --download
    dinor1 verify-published --data-root /data/coco --subset 100
    dinor1 verify-published --checkpoint FILE.pth --bert FOLDER --detector dinor1

The checkpoint is the Swin-T of MMDetection's model zoo that was pretrained on Objects365, GoldG, GRIT-9M and V3Det,
with an AP of 50.4 when prompted with the names of COCO's classes. MMDetection's detector and the one of this package,
with a prompt per token, are evaluated with it. The exit status is 0 if each AP differs by at most 0.1 from the
published AP, 1 if one differs by more, and 2 if a file is missing or cannot be downloaded. With --subset, nothing is
compared.

0.7 GB of weights, 0.4 GB of BERT and, with --download, 1.1 GB of COCO are downloaded, each file once. An interrupted
download starts again from the beginning of the file.
"""

import argparse
import os
import sys
from pathlib import Path

from dinor1 import benchmarks

_DETECTORS = ('mmdetection', 'dinor1')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        '--data-root', metavar='DIR', help='folder of COCO (default: $DINOR1_DATA/coco, or data/coco if unset)'
    )
    parser.add_argument(
        '--download', action='store_true', help='download the missing files of val2017 into the folder of COCO'
    )
    parser.add_argument(
        '--checkpoint', metavar='FILE', help='checkpoint (default: the published one, in the cache of torch.hub)'
    )
    parser.add_argument(
        '--bert', metavar='DIR', help='folder with bert-base-uncased (default: downloaded from the Hugging Face hub)'
    )
    parser.add_argument('--detector', choices=[*_DETECTORS, 'both'], default='both', help='default: %(default)s')
    parser.add_argument('--subset', type=int, metavar='N', help='evaluate only the first N images, and do not compare')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the GPU if there is one)')
    parser.add_argument(
        '--work-dir',
        default='work_dirs/verify_published',
        metavar='DIR',
        help='folder for logs and results (default: %(default)s)',
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    comparisons = benchmarks.verify(
        benchmarks.VerifyOptions(
            data_root=args.data_root or str(Path(os.environ.get('DINOR1_DATA', 'data'), 'coco')),
            download=args.download,
            checkpoint=args.checkpoint,
            bert=args.bert,
            detectors=_DETECTORS if args.detector == 'both' else (args.detector,),
            subset=args.subset,
            device=args.device,
            work_dir=args.work_dir,
        )
    )
    for comparison in comparisons:
        print(comparison)
    if args.subset is not None:
        print(f'Only the first {args.subset} images were evaluated: not compared with the published AP')
    sys.exit(int(any(comparison.agrees is False for comparison in comparisons)))
