#!/usr/bin/env python
"""Draw the samples of the data sets and pipelines of a config, with boxes and prompts.

Examples:
    python tools/analysis_tools/browse_dataset.py configs/dino_r1/dino-r1_nano_1xb8_12e_raccoon.py
    python tools/analysis_tools/browse_dataset.py CONFIG --split val --number 50 --out-dir val_images

--split train: augmented images, batch by batch. Above each image are the prompts of its batch, one box per class,
sampled as in training; absent classes are hard negatives. Prompt boxes on the image itself have a white inner frame.
--split val, test: images and ground truth of the annotation file; prompts.png shows a prompt of every class.
--split prompt: the images from which an evaluation draws exemplars, with the boxes of the exemplars.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from dinor1.cli.options import ConfigOptions

SPLITS = ('train', 'val', 'test', 'prompt')
# Maximum number of prompts on a sheet; a larger sheet is hard to read.
MAX_PROMPTS = 120


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--split', choices=SPLITS, default='train', help='split to draw (default: %(default)s)')
    parser.add_argument('--number', type=int, default=16, help='images to draw (default: %(default)s)')
    parser.add_argument('--out-dir', type=Path, help='folder (default: work_dirs/browse_dataset/CONFIG_SPLIT)')
    parser.add_argument('--seed', type=int, default=0, help='seed of order and prompts (default: %(default)s)')
    parser.add_argument('--epoch', type=int, default=0, help='epoch whose augmentation is drawn (default: %(default)s)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override settings of the config'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    import dinor1
    from dinor1.utils.config import load_config
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import write_image

    # Check the options.
    if args.number < 1:
        raise InputError(f'--number must be at least 1, got {args.number}')
    dinor1.register_all()
    cfg = load_config(args.config, args.cfg_options)
    key = 'prompt_dataset' if args.split == 'prompt' else f'{args.split}_dataloader'
    if not cfg.get(key):
        raise InputError(f'{args.config}: has no {key}; choose another --split')
    out_dir = args.out_dir or Path(f'work_dirs/browse_dataset/{Path(args.config).stem}_{args.split}')

    # Draw the images.
    count = 0
    draw = {'train': training_images, 'prompt': prompt_images}.get(args.split, ground_truth_images)
    for name, drawn in draw(cfg, args):
        write_image(drawn, out_dir / f'{name}.png')
        count += 1
    print(f'{count} images: {out_dir}')


def training_images(cfg: Config, args: argparse.Namespace) -> Iterator[tuple[str, object]]:
    """Yield images of the training pipeline, with the prompts of their batch."""
    import torch
    from mmengine.runner import Runner

    from dinor1.models.prompts import common_vocabulary, sample_prompts
    from dinor1.visualization import class_colors
    from dinor1.visualization.samples import crop, draw_truth, prepared_image, with_strip

    # Build the data loader, at the epoch to draw.
    loader = Runner.build_dataloader(cfg.train_dataloader | dict(num_workers=0, persistent_workers=False), args.seed)
    classes = class_names(loader.dataset, args.config)
    for part in (loader.dataset, loader.batch_sampler.sampler):
        if hasattr(part, 'set_epoch'):
            part.set_epoch(args.epoch)
    torch.manual_seed(args.seed)
    count = 0
    for batch in loader:
        # Read images, ground truth and class names of the batch.
        images = [prepared_image(inputs) for inputs in batch['inputs']]
        truths = [sample.gt_instances for sample in batch['data_samples']]
        boxes = [truth.bboxes.tensor.numpy() for truth in truths]
        texts = [sample.get('text') for sample in batch['data_samples']]
        numbers, vocabulary = common_vocabulary([truth.labels for truth in truths], texts)
        names = vocabulary or classes
        colors = class_colors(len(names))
        # Sample the prompts, and crop their boxes.
        draw = sample_prompts(numbers)
        columns = (draw.image.tolist(), draw.box.tolist(), draw.labels.tolist())
        chosen = [(i, b, c) for i, b, c in zip(*columns, strict=True) if c >= 0]
        crops = [crop(images[i], boxes[i][b]) for i, b, _ in chosen]
        # Draw each image below its prompts.
        for i, (image, sample) in enumerate(zip(images, batch['data_samples'], strict=True)):
            labels = numbers[i].tolist()
            own = {box for index, box, _ in chosen if index == i}
            captions = [names[c] if c in labels else f'{names[c]} (absent)' for _, _, c in chosen]
            drawn = draw_truth(image, boxes[i], labels, names, colors, own)
            frames = [colors[c] for _, _, c in chosen]
            yield f'{count:04}_{Path(sample.img_path).stem}', with_strip(drawn, crops, captions, frames)
            count += 1
            if count == args.number:
                return


def ground_truth_images(cfg: Config, args: argparse.Namespace) -> Iterator[tuple[str, object]]:
    """Yield images with ground truth; first, if the config has a prompt_dataset, a sheet with a prompt per class."""
    from dinor1.registry import DATASETS
    from dinor1.utils.image_file import read_image
    from dinor1.visualization import class_colors, prompt_strip
    from dinor1.visualization.samples import crop, draw_truth

    dataset = DATASETS.build(cfg[f'{args.split}_dataloader'].dataset)
    names = class_names(dataset, args.config)
    colors = class_colors(len(names))
    # Draw the first exemplar of each class.
    if cfg.get('prompt_dataset'):
        source, exemplars = drawn_exemplars(cfg, args)
        known, first = source.metainfo['classes'], {}
        for exemplar in exemplars:
            first.setdefault(known[exemplar.label], exemplar)
        shown = [name for name in names if name in first][:MAX_PROMPTS]
        paths = [source.get_data_info(first[name].index)['img_path'] for name in shown]
        crops = [crop(read_image(path), first[name].bbox) for path, name in zip(paths, shown, strict=True)]
        if shown:
            yield 'prompts', prompt_strip(crops, shown, [colors[names.index(name)] for name in shown])
    # Draw the images.
    for index in range(min(args.number, len(dataset))):
        info = dataset.get_data_info(index)
        boxes = [instance['bbox'] for instance in info['instances']]
        labels = [-1 if i.get('ignore_flag') else i['bbox_label'] for i in info['instances']]
        path = info['img_path']
        yield f'{index:04}_{Path(path).stem}', draw_truth(read_image(path), boxes, labels, names, colors)


def prompt_images(cfg: Config, args: argparse.Namespace) -> Iterator[tuple[str, object]]:
    """Yield the prepared images from which the prompts of an evaluation are drawn."""
    import numpy as np

    from dinor1.visualization import class_colors
    from dinor1.visualization.samples import draw_truth, prepared_image

    dataset, exemplars = drawn_exemplars(cfg, args)
    names = class_names(dataset, args.config)
    colors = class_colors(len(names))
    for index in sorted({exemplar.index for exemplar in exemplars})[: args.number]:
        prepared = dataset[index]
        sample = prepared['data_samples']
        own = [exemplar for exemplar in exemplars if exemplar.index == index]
        # Scale the boxes from pixels of the file to pixels of the prepared image.
        boxes = np.array([exemplar.bbox for exemplar in own]) * np.tile(sample.scale_factor, 2)
        image = prepared_image(prepared['inputs'])
        labels = [exemplar.label for exemplar in own]
        drawn = draw_truth(image, boxes, labels, names, colors, range(len(own)))
        yield f'{index:04}_{Path(sample.img_path).stem}', drawn


def drawn_exemplars(cfg: Config, args: argparse.Namespace) -> tuple:
    """Return the prompt data set, and the exemplars that an evaluation draws from it with the tool's seed."""
    from dinor1.evaluation import draw_exemplars
    from dinor1.registry import DATASETS

    dataset = DATASETS.build(cfg.prompt_dataset)
    prompts = (cfg.get('test_cfg') or {}).get('prompts') or {}
    return dataset, draw_exemplars(dataset, prompts.get('num_exemplars', 16), args.seed)


def class_names(dataset, config: str) -> tuple[str, ...]:
    """Return the class names of a detection data set."""
    from dinor1.utils.errors import InputError

    names = getattr(dataset, 'metainfo', {}).get('classes')
    if not names:
        raise InputError(f'{config}: {type(dataset).__name__} has no classes; only detection data have boxes to draw')
    return tuple(names)


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
