#!/usr/bin/env python
"""Find objects on an image, or on all images of a folder, by example boxes, by name, or with a prompt bank.

Examples:
    python tools/image_demo.py TARGET.jpg --config CONFIG --checkpoint CKPT --prompt REF.jpg:34,50,120,160:cat
    python tools/image_demo.py FOLDER --config CONFIG --checkpoint CKPT --bank bank.safetensors --out-dir out

A prompt is REF.jpg:x1,y1,x2,y2[:name], in pixels of REF.jpg, which may be the target itself. Repeat --prompt
for more boxes; the boxes of one name are averaged. A negative prompt is scored but not reported: things that
are not to be taken for the objects.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('target', help='image, or folder of images')
    parser.add_argument('--config', required=True, help='config that the checkpoint was trained with')
    parser.add_argument('--checkpoint', required=True, help='checkpoint file')
    parser.add_argument(
        '--prompt',
        action='append',
        default=[],
        metavar='REF:BOX[:NAME]',
        help='box on a reference image; may be repeated; a leading - on NAME or REF makes it negative',
    )
    parser.add_argument(
        '--negative-prompt',
        action='append',
        default=[],
        metavar='REF:BOX[:NAME]',
        help='negative box on a reference image; may be repeated',
    )
    parser.add_argument(
        '--text', default='', metavar='NAMES', help='class names, such as "cat . dog . -wolf" (- is negative)'
    )
    parser.add_argument('--bank', metavar='FILE', help='prompt bank of tools/build_prompt_bank.py')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of a detection (default: %(default)s)'
    )
    parser.add_argument('--batch-size', type=int, default=8, help='images per forward pass (default: %(default)s)')
    parser.add_argument(
        '--out-dir',
        default='work_dirs/image_demo',
        help='pictures go to vis/ and JSON to preds/ in it (default: %(default)s)',
    )
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: the GPU if there is one)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmengine.utils import ProgressBar

    from dinor1.cli.options import require_at_least
    from dinor1.cli.prompt_arguments import gather_prompts
    from dinor1.inference.image_input import list_images
    from dinor1.inference.inferencer import DINOR1Inferencer
    from dinor1.utils.errors import InputError

    require_at_least(1, args, 'batch_size')
    if not 0 <= args.score_thr <= 1:
        raise InputError(f'--score-thr must be in [0, 1], as scores are, got {args.score_thr:g}')
    # Everything that can be checked without the model comes first: loading it takes a while.
    prompts = gather_prompts(args.prompt, args.negative_prompt, args.text)
    targets = list_images(args.target)
    outputs = output_paths(targets, Path(args.out_dir))
    inferencer = DINOR1Inferencer(args.config, args.checkpoint, args.device)
    inferencer.set_prompts(**prompts, bank=args.bank)

    tally = Tally(args.score_thr)
    bar = ProgressBar(len(targets), file=sys.stdout)
    try:
        for start in range(0, len(targets), args.batch_size):
            batch = slice(start, start + args.batch_size)
            # All candidates, so that of a class without a detection the best score can be told.
            samples = inferencer.predict(targets[batch], args.batch_size, score_thr=0)
            for sample, (picture, result) in zip(samples, outputs[batch], strict=True):
                tally.keep_detections(sample)
                write_picture(sample, inferencer.prompts.num_classes, picture)
                write_result(inferencer, sample, args.score_thr, result)
            bar.update(len(samples))
    finally:
        print()  # The bar leaves the cursor on its line.
    hidden = inferencer.prompts.negative.tolist()
    print(tally.report([n for n, is_hidden in zip(inferencer.prompts.names, hidden, strict=True) if not is_hidden]))
    if len(outputs) == 1:
        print(f'Picture: {outputs[0][0]}; boxes: {outputs[0][1]}')
    else:
        print(f'Pictures: {Path(args.out_dir) / "vis"}; boxes: {Path(args.out_dir) / "preds"}')


class Tally:
    """How many objects of each class were found, and how close the best candidate came where none was."""

    def __init__(self, score_thr: float) -> None:
        self.score_thr, self.images, self.hits = score_thr, 0, 0
        self.counts: Counter[str] = Counter()
        self.best: dict[str, float] = {}

    def keep_detections(self, sample) -> None:
        """Count the candidates of an image, and leave in it those that reach the threshold."""
        found = sample.pred_instances
        for name, score in zip(found.label_names, found.scores.tolist(), strict=True):
            self.best[name] = max(score, self.best.get(name, 0))
        sample.pred_instances = found[found.scores >= self.score_thr]
        self.counts.update(sample.pred_instances.label_names)
        self.images += 1
        self.hits += len(sample.pred_instances) > 0

    def report(self, names: list[str]) -> str:
        """One line on all classes, and what to do if nothing was found."""
        parts = [f'{self.counts[n]} x {n}' + ('' if self.counts[n] else f' ({self._best_of(n)})') for n in names]
        line = f'Found on {self.hits} of {self.images} images: {", ".join(parts)}'
        if self.hits:
            return line
        return f'{line}\nNothing reaches --score-thr {self.score_thr:g}; try a lower one, or other or more prompts'

    def _best_of(self, name: str) -> str:
        return f'best score {self.best[name]:.3f}' if name in self.best else 'no candidate'


def output_paths(targets: list[str], out_dir: Path) -> list[tuple[Path, Path]]:
    """Where picture and JSON of each target go; targets that share a stem keep their suffix as well."""
    from dinor1.utils.errors import InputError

    stems = Counter(Path(target).stem for target in targets)
    names = [Path(t).stem if stems[Path(t).stem] == 1 else Path(t).name for t in targets]
    paths = [(out_dir / 'vis' / f'{name}.png', out_dir / 'preds' / f'{name}.json') for name in names]
    inputs = {Path(target).resolve() for target in targets}
    for picture, _ in paths:
        if picture.resolve() in inputs:
            raise InputError(f'--out-dir {out_dir}: {picture} is a target and would be overwritten; choose another')
    return paths


def write_picture(sample, num_classes: int, path: Path) -> None:
    """Draw the detections on the image that they were found on."""
    import mmcv
    import torch

    from dinor1.utils.io import write_image
    from dinor1.visualization import class_colors, draw_boxes

    # The best detection is drawn last, on top of the others.
    found, colors = sample.pred_instances, class_colors(num_classes)
    found = found[torch.arange(len(found)).flip(0)]
    captions = [f'{n} {s:.2f}' for n, s in zip(found.label_names, found.scores.tolist(), strict=True)]
    image = mmcv.imread(sample.img_path)
    picture = draw_boxes(image, found.bboxes.numpy(), captions, [colors[i] for i in found.labels.tolist()])
    write_image(picture, path)


def write_result(inferencer, sample, score_thr: float, path: Path) -> None:
    """Write boxes in pixels of the image, with what was asked for."""
    from dinor1.utils.io import write_json

    prompts = inferencer.prompts
    hidden = prompts.negative.tolist()
    asked = dict(
        prompts=[name for name, is_hidden in zip(prompts.names, hidden, strict=True) if not is_hidden],
        negative_prompts=[name for name, is_hidden in zip(prompts.names, hidden, strict=True) if is_hidden],
        score_thr=score_thr,
    )
    write_json(inferencer.to_dict(sample) | asked, path, indent=2)


if __name__ == '__main__':
    from dinor1.cli.run_tool import run_tool

    run_tool(main)
