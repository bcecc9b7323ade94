"""Fixtures on disk: a tiny model as a config and a checkpoint, and a folder of images."""

import copy
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch

SIDE = 96  # the longer side of an image after resizing
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(SIDE, SIDE), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]


class ModelFiles(NamedTuple):
    """Paths of a config and of a checkpoint for it."""

    config: str
    checkpoint: str


def write_model(folder: Path, seed: int = 0, **overrides) -> ModelFiles:
    """Write a tiny DINO-R1 with random weights and the pipeline above."""
    from dinor1.registry import MODELS
    from tests.conftest import tiny_config

    # Write the config. With 12 queries and few classes, the limit of 100 keeps all detections, so that results can be
    # compared as sets.
    cfg = tiny_config(**{'model.test_cfg.max_per_img': 100, **overrides})
    cfg.default_scope = 'dinor1'
    cfg.test_dataloader = dict(dataset=dict(pipeline=PIPELINE))
    files = ModelFiles(str(folder / 'model.py'), str(folder / 'model.pth'))
    cfg.dump(files.config)
    # Write the checkpoint.
    torch.manual_seed(seed)
    model = MODELS.build(copy.deepcopy(cfg.model))
    model.init_weights()
    for name, parameter in model.named_parameters():
        # Change the initial values, at which fusion layers and box heads have almost no effect.
        if name.endswith(('gamma_v', 'gamma_l')):
            parameter.data.fill_(0.3)
        if 'reg_branches' in name:
            parameter.data.normal_(std=0.05)
    torch.save(dict(meta={}, state_dict=model.state_dict()), files.checkpoint)
    return files


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Image of blurred noise, (H, W, 3) BGR."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 2)


@pytest.fixture(scope='session')
def model_files(tmp_path_factory) -> ModelFiles:
    return write_model(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='session')
def other_files(tmp_path_factory) -> ModelFiles:
    """The same architecture with other weights."""
    return write_model(tmp_path_factory.mktemp('other_model'), seed=1)


@pytest.fixture(scope='session')
def wide_files(tmp_path_factory) -> ModelFiles:
    """An architecture of another width."""
    overrides = {'model.transformer.embed_dims': 64, 'model.transformer.feedforward_channels': 32}
    return write_model(tmp_path_factory.mktemp('wide_model'), **overrides)


@pytest.fixture(scope='session')
def image_folder(tmp_path_factory) -> Path:
    """A folder of four PNG files of three sizes, and a text file."""
    folder = tmp_path_factory.mktemp('images')
    for i, size in enumerate([(60, 80), (80, 60), (64, 64), (60, 80)]):
        cv2.imwrite(str(folder / f'{i}.png'), random_image(*size, seed=i))
    (folder / 'notes.txt').write_text('not an image')
    return folder


@pytest.fixture
def untrained_bert(monkeypatch):
    """BERT-base without weights: nothing to download, and on the meta device nothing to hold."""
    from mmdet.models.language_models import bert
    from transformers import BertConfig, BertModel

    from dinor1.utils import compat

    class Tokenizer:
        def convert_tokens_to_ids(self, tokens):
            return list(range(len(tokens)))

    class Bert:
        @staticmethod
        def from_pretrained(name, config, **kwargs):
            assert name == 'bert-base-uncased'
            with torch.device('meta'):
                return BertModel(config, **kwargs)

    compat.fill_transformers()
    monkeypatch.setattr(bert.AutoTokenizer, 'from_pretrained', lambda name: Tokenizer())
    monkeypatch.setattr(bert.BertConfig, 'from_pretrained', lambda name: BertConfig())
    monkeypatch.setattr(bert, 'HFBertModel', Bert)
