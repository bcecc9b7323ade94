"""Train a config on the user's own folder of annotated images, as ``dinor1 train CONFIG --data FOLDER`` does."""

from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from dinor1.utils.errors import InputError

# Possible paths of the COCO annotations of a split and of its images. {split}: train, val or test; {roboflow}:
# Roboflow's name of the split, train, valid or test.
LAYOUTS = (
    ('annotations/{split}.json', 'images'),
    ('annotations/instances_{split}.json', 'images'),
    ('annotations/instances_{split}2017.json', '{split}2017'),
    ('{split}.json', 'images'),
    ('{roboflow}/_annotations.coco.json', '{roboflow}'),
)
# Layouts of a folder without splits, in which all images are for training.
WHOLE = (
    ('annotations.json', 'images'),
    ('_annotations.coco.json', ''),
    ('annotations/instances_default.json', 'images'),
)


class Split(NamedTuple):
    """Annotations and images of a split, relative to the folder."""

    ann_file: str
    images: str


def use_folder(cfg: Config, folder: str | Path, name: str) -> None:
    """Replace the data sets of a config by those of a folder, in place.

    The images of a split are in the folder of :data:`LAYOUTS` or, if that does not exist, in the folder itself. If one
    of validation and test split is missing, the other takes its place; without both, nothing is evaluated.

    Args:
        cfg: Config with one data set for training.
        folder: The folder.
        name: Name of the config, for error messages.

    Raises:
        InputError: the folder has no annotations of training images, or the config trains on several data sets.
    """
    # Check folder and config.
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f'--data {folder}: no such folder')
    if 'ann_file' not in cfg.train_dataloader.dataset:
        raise InputError(f'--data: {name} trains on several data sets or on another format; use lite/fine-tune')
    # Find the splits.
    train = _find(root, 'train') or _find_whole(root)
    if train is None:
        tried = ', '.join([LAYOUTS[0][0].format(split='train'), LAYOUTS[-1][0].format(roboflow='train'), WHOLE[0][0]])
        raise InputError(f'--data {folder}: no COCO annotations of training images; looked for {tried} and others')
    val, test = _find(root, 'val'), _find(root, 'test')
    # Use them.
    _set(cfg.train_dataloader.dataset, root, train)
    _set(cfg.prompt_dataset, root, train)
    for part, split in (('val', val or test), ('test', test or val)):
        if split is None:
            cfg[f'{part}_dataloader'] = cfg[f'{part}_evaluator'] = cfg[f'{part}_cfg'] = None
        else:
            _set(cfg[f'{part}_dataloader'].dataset, root, split)
            cfg[f'{part}_evaluator'].ann_file = str(root / split.ann_file)


def _find(root: Path, split: str) -> Split | None:
    """Annotations and images of a split, or None."""
    names = dict(split=split, roboflow=dict(val='valid').get(split, split))
    return _first(root, [(ann_file.format(**names), images.format(**names)) for ann_file, images in LAYOUTS])


def _find_whole(root: Path) -> Split | None:
    """Annotations and images of a folder without splits, or None; a single JSON file is used with any name."""
    found = sorted(root.glob('*.json'))
    only = [(found[0].name, 'images')] if len(found) == 1 else []
    return _first(root, [*WHOLE, *only])


def _first(root: Path, layouts: list[tuple[str, str]]) -> Split | None:
    for ann_file, images in layouts:
        if (root / ann_file).is_file():
            return Split(ann_file, images if (root / images).is_dir() else '')
    return None


def _set(dataset: dict, root: Path, split: Split) -> None:
    dataset.update(data_root=str(root), ann_file=split.ann_file, data_prefix=dict(img=split.images))
