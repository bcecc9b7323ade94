r"""Find objects on images, by example boxes, by name, or with a prompt bank, and label the images with them.

Examples:
    dinor1 detect TARGET.jpg --prompt REF.jpg:34,50,120,160:cat
    dinor1 detect FOLDER --config CONFIG --checkpoint CKPT --bank bank.safetensors --out-dir out
    dinor1 detect A.jpg FOLDER 'days/**/*.jpg' --config CONFIG --checkpoint CKPT --bank bank.safetensors \
        --export coco --out-dir labels --resume

Without --config and --checkpoint, the released detector for photographs is used.

A prompt is REF.jpg:x1,y1,x2,y2[:name], in pixels of REF.jpg, which may be the target itself; or REF.jpg:x,y[:name],
a point, which becomes a box of a twentieth of the shorter side of the image. Repeat --prompt for more boxes; the boxes
of one name are averaged. A negative prompt describes things that look like the objects: its detections are not
reported.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dinor1 import inference
from dinor1.cli.options import add_detector, require_at_least, require_detector
from dinor1.utils.errors import InputError
from dinor1.utils.io import check_output

if TYPE_CHECKING:
    from dinor1.inference.labelling import Labelled

MIN_TILE = 32
EXPORTS = ('coco', 'yolo', 'odvg', 'labelme')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('targets', nargs='+', metavar='TARGET', help='image, folder of images, or pattern in quotes')
    add_detector(parser)
    parser.add_argument(
        '--prompt',
        action='append',
        default=[],
        metavar='REF:BOX[:NAME]',
        help='box on a reference image; may be repeated; - before NAME or REF makes it negative',
    )
    parser.add_argument(
        '--negative-prompt',
        action='append',
        default=[],
        metavar='REF:BOX[:NAME]',
        help='negative box on a reference image; may be repeated',
    )
    parser.add_argument(
        '--normalized',
        action='store_true',
        help='boxes are given in parts of the width and height of their image, from 0 to 1',
    )
    parser.add_argument(
        '--text',
        default='',
        metavar='NAMES',
        help='class names, such as "cat . dog . -wolf" (- is negative; write --text=-wolf if it comes first)',
    )
    parser.add_argument('--bank', metavar='FILE', help='prompt bank made by `dinor1 bank`')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='smallest score of a detection (default: %(default)s)'
    )
    parser.add_argument(
        '--skip-unreadable', action='store_true', help='leave out images that cannot be read, and list them at the end'
    )
    parser.add_argument(
        '--nms-thr',
        type=float,
        default=0.7,
        help='remove a detection if its IoU with a better one of its class is larger; 1: off (default: %(default)s)',
    )
    parser.add_argument(
        '--class-agnostic-nms', action='store_true', help='remove detections of different classes on one object too'
    )
    parser.add_argument(
        '--tile', type=int, metavar='PIXELS', help='detect on overlapping tiles of this size too, for large images'
    )
    parser.add_argument(
        '--overlap', type=float, default=0.2, help='part of a tile that the next one covers too (default: %(default)s)'
    )
    parser.add_argument('--batch-size', type=int, default=8, help='images per forward pass (default: %(default)s)')
    parser.add_argument(
        '--out-dir',
        default='work_dirs/detect',
        help='folder for drawings, in vis/, and JSON files, in preds/ (default: %(default)s)',
    )
    parser.add_argument(
        '--export',
        choices=EXPORTS,
        help='write annotations in this format to the folder, instead of drawings',
    )
    parser.add_argument(
        '--resume', action='store_true', help='with --export: keep results of an earlier run with the same settings'
    )
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the GPU if there is one)')


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    require_at_least(1, args, 'batch_size')
    require_detector(args)
    if not 0 <= args.score_thr <= 1:
        raise InputError(f'--score-thr must be in [0, 1], as scores are, got {args.score_thr:g}')
    if not 0 <= args.nms_thr <= 1:
        raise InputError(f'--nms-thr must be in [0, 1], as IoU is, got {args.nms_thr:g}')
    options = dict(nms_thr=args.nms_thr, class_agnostic_nms=args.class_agnostic_nms)
    if args.tile is not None:
        require_at_least(MIN_TILE, args, 'tile')
        if not 0 <= args.overlap <= 0.9:
            raise InputError(f'--overlap must be in [0, 0.9], a part of the tile, got {args.overlap:g}')
        options |= dict(tile=args.tile, overlap=args.overlap)
    if args.resume and not args.export:
        raise InputError('--resume keeps results of an earlier --export; give --export too')
    # Check the input before the model is loaded, which takes a while.
    prompts = inference.gather_prompts(args.prompt, args.negative_prompt, args.text, args.normalized)
    targets, unreadable = inference.readable_images(inference.list_targets(args.targets), args.skip_unreadable)
    out_dir = Path(args.out_dir)
    outputs = inference.output_paths(targets, out_dir)
    for output in outputs[0]:
        check_output(output, '--out-dir')
    # Set the prompts.
    inferencer = inference.DINOR1Inferencer(args.config, args.checkpoint, args.device)
    inferencer.set_prompts(**prompts, bank=args.bank)
    hidden = inferencer.prompts.negative.tolist()
    names = list(zip(inferencer.prompts.names, hidden, strict=True))
    print(f'Classes: {", ".join(repr(name) + (" (negative)" if is_hidden else "") for name, is_hidden in names)}')
    # Detect.
    if args.export:
        labelled = inference.label_files(
            inferencer, targets, out_dir, args.export, args.score_thr, args.batch_size, args.resume, **options
        )
        counts = labelled.counts
    else:
        counts = inference.detect_files(inferencer, targets, outputs, args.score_thr, args.batch_size, **options)
    # Report.
    print(counts.report([name for name, is_hidden in names if not is_hidden]))
    if args.export:
        _report_export(labelled, len(targets))
    elif len(outputs) == 1:
        print(f'Drawing: {outputs[0][0]}; boxes: {outputs[0][1]}')
    else:
        print(f'Drawings: {out_dir / "vis"}; boxes: {out_dir / "preds"}')
    if unreadable:
        print(f'Left out {len(unreadable)} of {len(targets) + len(unreadable)} images that cannot be read:')
        print(*(f'  {message}' for message in unreadable), sep='\n')


def _report_export(labelled: Labelled, num_targets: int) -> None:
    """Print what was written.

    Raises:
        InputError: some images cannot be read.
    """
    if labelled.num_resumed:
        print(f'Kept from an earlier run: {labelled.num_resumed} of {num_targets} images')
    if labelled.num_without_area:
        print(f'Left out: {labelled.num_without_area} detections whose boxes have no area')
    print(f'Labels: {", ".join(map(str, labelled.written))}')
    if labelled.unreadable:
        raise InputError(
            f'{len(labelled.unreadable)} of {num_targets} images cannot be read, and the labels lack them: '
            f'{", ".join(labelled.unreadable)}; restore the files, and run again with --resume'
        )
