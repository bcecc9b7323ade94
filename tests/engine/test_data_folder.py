"""Training on the user's own folder: layouts that are found, and one-line errors for others."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dinor1.engine import evaluate
from dinor1.engine.data_folder import use_folder
from dinor1.engine.run_checks import check_training
from dinor1.registry import DATASETS
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError

CATEGORIES = [dict(id=1, name='nut'), dict(id=2, name='bolt')]


def write_split(root, ann_file, images, count=2):
    """Annotations of ``count`` images with one box each, and the images."""
    (root / images).mkdir(parents=True, exist_ok=True)
    (root / ann_file).parent.mkdir(parents=True, exist_ok=True)
    infos = [dict(id=i, file_name=f'{i}.png', width=40, height=30) for i in range(count)]
    boxes = [dict(id=i, image_id=i, category_id=1 + i % 2, bbox=[5, 5, 20, 10], area=200) for i in range(count)]
    (root / ann_file).write_text(json.dumps(dict(images=infos, annotations=boxes, categories=CATEGORIES)))
    for info in infos:
        cv2.imwrite(str(root / images / info['file_name']), np.zeros((30, 40, 3), np.uint8))


def sizes(cfg):
    """Numbers of images of the training, validation, test and prompt data sets; None: there is none."""
    loaders = [cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]
    sets = [loader and loader.dataset for loader in loaders] + [cfg.prompt_dataset]
    counts = []
    for one in sets:
        dataset = one and DATASETS.build(one)
        counts.append(dataset and len(dataset))
        if dataset:
            dataset[0]  # reads an image
    return counts


@pytest.mark.parametrize(
    ('splits', 'expected'),
    [
        ({'train': ('annotations/train.json', 'images'), 'val': ('annotations/val.json', 'images')}, [3, 2, 2, 3]),
        ({'train': ('train.json', ''), 'test': ('test.json', '')}, [3, 2, 2, 3]),
        (
            {
                'train': ('train/_annotations.coco.json', 'train'),
                'val': ('valid/_annotations.coco.json', 'valid'),
                'test': ('test/_annotations.coco.json', 'test'),
            },
            [3, 2, 2, 3],
        ),
        ({'train': ('annotations/instances_train2017.json', 'train2017')}, [3, None, None, 3]),
        ({'train': ('annotations/instances_default.json', 'images')}, [3, None, None, 3]),
        ({'train': ('my_labels.json', '')}, [3, None, None, 3]),
    ],
)
@pytest.mark.parametrize('name', ['lite/fine-tune', 'lite/few-shot'])
def test_use_folder_finds_splits(tmp_path, splits, expected, name):
    for split, (ann_file, images) in splits.items():
        write_split(tmp_path, ann_file, images, 3 if split == 'train' else 2)
    cfg = load_config(name)
    use_folder(cfg, tmp_path, name)
    assert sizes(cfg) == expected
    check_training(cfg, name)
    if cfg.val_evaluator:
        assert json.loads(Path(cfg.val_evaluator.ann_file).read_text())['images']


def test_use_folder_rejects_unsuitable_folders_and_configs(tmp_path):
    with pytest.raises(InputError, match='--data .*nowhere: no such folder'):
        use_folder(load_config('lite/fine-tune'), tmp_path / 'nowhere', 'lite/fine-tune')
    with pytest.raises(InputError, match=r'no COCO annotations of training images; looked for annotations/train.json'):
        use_folder(load_config('lite/fine-tune'), tmp_path, 'lite/fine-tune')
    name = 'vis_gdino/vis-gdino_lite_2xb8_20e_photographs'
    with pytest.raises(InputError, match='trains on several data sets or on another format; use lite/fine-tune'):
        use_folder(load_config(name), tmp_path, name)


def test_evaluate_without_test_images_is_rejected(tmp_path, model_files):
    write_split(tmp_path, 'annotations/train.json', 'images')
    with pytest.raises(InputError, match='no annotations of test or validation images'):
        evaluate('lite/fine-tune', model_files.checkpoint, data=tmp_path)
