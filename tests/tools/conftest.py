"""Fixtures for the tools: run a tool and read its output, with a tiny model and a tiny data set."""

import json
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from tests.model_files import PIPELINE, random_image

CATEGORIES = ['apple', 'pear', 'plum']


class Outcome(NamedTuple):
    """Exit status and output of a tool.

    Attributes:
        status: Exit status.
        out: Text on standard output.
        err: Text on standard error.
    """

    status: int
    out: str
    err: str


@pytest.fixture
def call(repo, monkeypatch, capfd):
    """``call('image_demo', argument, ...)`` runs a tool in this process, because a new process takes seconds."""

    def run(tool: str, *arguments) -> Outcome:
        monkeypatch.setattr(sys, 'argv', [f'tools/{tool}.py', *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            runpy.run_path(str(repo / f'tools/{tool}.py'), run_name='__main__')
        except SystemExit as stop:
            status = stop.code
        return Outcome(status, *capfd.readouterr())

    return run


def coco_content(num_images: int) -> dict:
    """Make the content of a COCO file: images of 64 x 48 pixels with a box of each category."""
    images = [dict(id=i, file_name=f'{i}.png', width=64, height=48) for i in range(num_images)]
    annotations = [
        dict(id=10 * i + c, image_id=i, category_id=c, bbox=[4 + 15 * c, 5 + i, 14, 20], area=280, iscrowd=0)
        for i in range(num_images)
        for c in range(len(CATEGORIES))
    ]
    categories = [dict(id=c, name=name) for c, name in enumerate(CATEGORIES)]
    return dict(images=images, annotations=annotations, categories=categories)


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory) -> Path:
    """Folder with five training and two validation images, in the layout of the shapes world."""
    root = tmp_path_factory.mktemp('data')
    (root / 'shapes/annotations').mkdir(parents=True)
    for seed, (split, count) in enumerate([('train', 5), ('val_base', 2)]):
        folder = root / 'shapes/images' / split
        folder.mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(folder / f'{i}.png'), random_image(48, 64, seed=10 * seed + i))
        (root / f'shapes/annotations/{split}.json').write_text(json.dumps(coco_content(count)))
    return root


@pytest.fixture
def run_config(repo, data_dir, model_files, tmp_path, monkeypatch) -> Path:
    """The supervised nano recipe with the tiny model on the tiny data, without worker processes."""
    monkeypatch.setenv('DINOR1_DATA', str(data_dir))
    cfg = Config.fromfile(repo / 'configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes.py')
    cfg.model = Config.fromfile(model_files.config).model
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[name].update(num_workers=0, persistent_workers=False)
    cfg.test_dataloader.dataset.pipeline = cfg.prompt_dataset.pipeline = PIPELINE
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    path = tmp_path / 'config.py'
    cfg.dump(path)
    return path


@pytest.fixture
def reference(image_folder) -> str:
    """A valid argument of ``--prompt``."""
    assert cv2.imread(str(image_folder / '0.png')).shape == (60, 80, 3)
    return f'{image_folder / "0.png"}:5,5,30,40:cat'


def readable_image(path: Path) -> np.ndarray:
    """Read an image file, and check that it can be read."""
    image = cv2.imread(str(path))
    assert image is not None
    return image
