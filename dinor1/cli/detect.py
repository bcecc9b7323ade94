"""Find objects on an image, or on all images of a folder, by example boxes, by name, or with a prompt bank.

Examples:
    dinor1 detect TARGET.jpg --config CONFIG --checkpoint CKPT --prompt REF.jpg:34,50,120,160:cat
    dinor1 detect FOLDER --config CONFIG --checkpoint CKPT --bank bank.safetensors --out-dir out

A prompt is REF.jpg:x1,y1,x2,y2[:name], in pixels of REF.jpg, which may be the target itself. Repeat --prompt
for more boxes; the boxes of one name are averaged. A negative prompt describes things that look like the objects:
its detections are not reported.
"""

import argparse
from pathlib import Path

from dinor1 import inference
from dinor1.cli.options import complete_config, require_at_least
from dinor1.utils.errors import InputError
from dinor1.utils.io import check_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('target', help='image, or folder of images')
    config = parser.add_argument('--config', required=True, help='config that the checkpoint was trained with')
    config.completer = complete_config  # type: ignore[attr-defined]
    parser.add_argument('--checkpoint', required=True, help='checkpoint file')
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
        '--nms-thr',
        type=float,
        default=0.7,
        help='remove a detection if its IoU with a better one of its class is larger; 1: off (default: %(default)s)',
    )
    parser.add_argument(
        '--class-agnostic-nms', action='store_true', help='remove detections of different classes on one object too'
    )
    parser.add_argument('--batch-size', type=int, default=8, help='images per forward pass (default: %(default)s)')
    parser.add_argument(
        '--out-dir',
        default='work_dirs/detect',
        help='folder for drawings, in vis/, and JSON files, in preds/ (default: %(default)s)',
    )
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the GPU if there is one)')


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    require_at_least(1, args, 'batch_size')
    if not 0 <= args.score_thr <= 1:
        raise InputError(f'--score-thr must be in [0, 1], as scores are, got {args.score_thr:g}')
    if not 0 <= args.nms_thr <= 1:
        raise InputError(f'--nms-thr must be in [0, 1], as IoU is, got {args.nms_thr:g}')
    options = dict(nms_thr=args.nms_thr, class_agnostic_nms=args.class_agnostic_nms)
    # Check the input before the model is loaded, which takes a while.
    prompts = inference.gather_prompts(args.prompt, args.negative_prompt, args.text)
    targets = inference.list_images(args.target)
    outputs = inference.output_paths(targets, Path(args.out_dir))
    check_output(outputs[0][0], '--out-dir')
    # Detect.
    inferencer = inference.DINOR1Inferencer(args.config, args.checkpoint, args.device)
    inferencer.set_prompts(**prompts, bank=args.bank)
    counts = inference.detect_files(inferencer, targets, outputs, args.score_thr, args.batch_size, **options)
    # Report.
    hidden = inferencer.prompts.negative.tolist()
    names = zip(inferencer.prompts.names, hidden, strict=True)
    print(counts.report([name for name, is_hidden in names if not is_hidden]))
    if len(outputs) == 1:
        print(f'Drawing: {outputs[0][0]}; boxes: {outputs[0][1]}')
    else:
        print(f'Drawings: {Path(args.out_dir) / "vis"}; boxes: {Path(args.out_dir) / "preds"}')
