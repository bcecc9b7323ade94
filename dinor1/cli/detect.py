r"""Find objects on images and videos, by example boxes, by name, or with a prompt bank, and label them.

Examples:
    dinor1 detect TARGET.jpg --prompt REF.jpg:34,50,120,160:cat
    dinor1 detect FOLDER --config CONFIG --checkpoint CKPT --bank bank.safetensors --out-dir out
    dinor1 detect A.jpg FOLDER 'days/**/*.jpg' --config CONFIG --checkpoint CKPT --bank bank.safetensors \
        --export coco --out-dir labels --resume
    dinor1 detect clip.mp4 --prompt clip.mp4@120:34,50,120,160:cat --frame-step 5
    dinor1 detect webcam:0 --prompt REF.jpg:34,50,120,160:cat --max-frames 100

Without --config and --checkpoint, the released detector for photographs is used.

A prompt is REF.jpg:x1,y1,x2,y2[:name], in pixels of REF.jpg, which may be the target itself; or REF.jpg:x,y[:name],
a point, which becomes a box of a twentieth of the shorter side of the image. clip.mp4@120 is frame 120 of a video,
counted from 0, in the place of REF.jpg. Repeat --prompt for more boxes; the boxes
of one name are averaged. A negative prompt describes things that look like the objects: its detections are not
reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinor1 import inference
from dinor1.cli.options import add_detector, require_at_least, require_detector
from dinor1.utils.errors import InputError
from dinor1.utils.io import check_output
from dinor1.utils.video_file import webcam_number

if TYPE_CHECKING:
    from dinor1.inference.labelling import Labelled
    from dinor1.inference.video_detection import VideoOutput, VideoResult

MIN_TILE = 32
EXPORTS = ('coco', 'yolo', 'odvg', 'labelme')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    # Add the targets and the detector.
    parser.add_argument(
        'targets', nargs='+', metavar='TARGET', help='image, folder of images, pattern in quotes, video, or webcam:N'
    )
    add_detector(parser)
    # Add the prompts.
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
    parser.add_argument('--head', metavar='FILE', help='tuned head made by `dinor1 adapt --parts head`')
    # Add the settings of the detection and of the output.
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='smallest score of a detection (default: %(default)s)'
    )
    parser.add_argument(
        '--skip-unreadable', action='store_true', help='leave out images that cannot be read, and list them at the end'
    )
    parser.add_argument(
        '--nms-thr',
        type=float,
        default=0.5,
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
    parser.add_argument('--flip', action='store_true', help='detect on the mirror image too, and merge the detections')
    parser.add_argument(
        '--frame-step', type=int, default=1, metavar='N', help='search every Nth frame of a video (default: all)'
    )
    parser.add_argument(
        '--max-frames', type=int, metavar='N', help='stop after N frames of each video (default: webcams until Ctrl-C)'
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
        '--resume',
        action='store_true',
        help='with --export, and for videos: keep results of an earlier run with the same settings',
    )
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the GPU if there is one)')


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    # Check the options.
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
    if args.flip:
        options |= dict(flip=True)
    require_at_least(1, args, 'frame_step', 'max_frames')
    video_options = inference.VideoOptions(args.frame_step, args.max_frames)
    # Check the input first, because loading the model takes several seconds.
    prompts = inference.gather_prompts(args.prompt, args.negative_prompt, args.text, args.normalized)
    images, videos = inference.split_videos(inference.list_targets(args.targets))
    if args.resume and images and not args.export:
        raise InputError('--resume keeps results of an earlier --export, or of videos; give --export too')
    if args.resume and any(webcam_number(video) is not None for video in videos):
        raise InputError('--resume: a webcam shows other frames each time; leave out --resume')
    # Check that the targets can be read, and that the results can be written.
    images, unreadable = inference.readable_images(images, args.skip_unreadable)
    videos, unreadable_videos = inference.readable_videos(videos, args.skip_unreadable)
    unreadable += unreadable_videos
    out_dir = Path(args.out_dir)
    outputs = inference.output_paths(images, out_dir)
    video_outputs = inference.video_outputs(images, videos, out_dir)
    for output in [path for paths in outputs[:1] for path in paths] + [video.drawing for video in video_outputs[:1]]:
        check_output(output, '--out-dir')
    # Set the prompts.
    inferencer = inference.DINOR1Inferencer(args.config, args.checkpoint, args.device)
    if args.head is not None:
        inferencer.load_head(args.head)
    inferencer.set_prompts(**prompts, bank=args.bank)
    hidden = inferencer.prompts.negative.tolist()
    names = list(zip(inferencer.prompts.names, hidden, strict=True))
    print(f'Classes: {", ".join(repr(name) + (" (negative)" if is_hidden else "") for name, is_hidden in names)}')
    # Detect objects, and write labels or drawings.
    if args.export:
        labelled = inference.label_files(
            inferencer,
            [*images, *videos],
            out_dir,
            args.export,
            args.score_thr,
            args.batch_size,
            args.resume,
            video_options,
            **options,
        )
        counts = labelled.counts
    else:
        counts, found = inference.DetectionCount(args.score_thr), []
        shared = (args.score_thr, args.batch_size)
        if images:
            counts.include(inference.detect_files(inferencer, images, outputs, *shared, **options))
        if videos:
            found = inference.detect_videos(
                inferencer, video_outputs, out_dir, *shared, args.resume, video_options, **options
            )
        for result in found:
            counts.include(result.counts)
    # Report the numbers of detections, the files that were written, and unreadable targets.
    print(counts.report([name for name, is_hidden in names if not is_hidden]))
    if args.export:
        _report_export(labelled, counts.num_images)
    else:
        _report_files(outputs, video_outputs, found, out_dir)
    if unreadable:
        total = len(images) + len(videos) + len(unreadable)
        kinds = 'images and videos' if videos or unreadable_videos else 'images'
        print(f'Left out {len(unreadable)} of {total} {kinds} that cannot be read:')
        print(*(f'  {message}' for message in unreadable), sep='\n')


def _report_files(
    outputs: Sequence[tuple[Path, Path]],
    video_outputs: Sequence[VideoOutput],
    found: Sequence[VideoResult],
    out_dir: Path,
) -> None:
    """Print what was written without --export."""
    # Report results that were kept, and videos with missing frames.
    num_resumed = sum(result.num_resumed for result in found)
    if num_resumed:
        print(f'Kept from an earlier run: {num_resumed} frames')
    for result in found:
        if result.note:
            print(f'Note: {result.note}')
    # Report single files by their paths, and several files by their folders.
    if len(outputs) == 1 and not video_outputs:
        print(f'Drawing: {outputs[0][0]}; boxes: {outputs[0][1]}')
    elif len(video_outputs) == 1 and not outputs:
        print(f'Drawing: {video_outputs[0].drawing}; boxes: {out_dir / "preds"}')
    else:
        print(f'Drawings: {out_dir / "vis"}; boxes: {out_dir / "preds"}')


def _report_export(labelled: Labelled, num_targets: int) -> None:
    """Print what was written.

    Raises:
        InputError: some images cannot be read.
    """
    if labelled.num_resumed:
        print(f'Kept from an earlier run: {labelled.num_resumed} of {num_targets} images')
    for note in labelled.notes:
        print(f'Note: {note}')
    if labelled.num_without_area:
        print(f'Left out: {labelled.num_without_area} detections whose boxes have no area')
    print(f'Labels: {", ".join(map(str, labelled.written))}')
    if labelled.drawings:
        print(f'Videos: {", ".join(map(str, labelled.drawings))}')
    if labelled.unreadable:
        raise InputError(
            f'{len(labelled.unreadable)} of {num_targets} images cannot be read, and the labels lack them: '
            f'{", ".join(labelled.unreadable)}; restore the files, and run again with --resume'
        )
