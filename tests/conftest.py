"""Fixtures: the shared reference folder, a tiny model, and batches for it."""

import os
from collections.abc import Callable
from pathlib import Path

# Read when torch is imported: waiting threads sleep instead of spinning, or two busy cores take ten times as long.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
# Workers of `pytest -n` have a core each; what a test starts inherits the setting.
os.environ['OMP_NUM_THREADS'] = '1' if 'PYTEST_XDIST_WORKER' in os.environ else '2'

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import dinor1
from tests.model_files import model_files, other_files, pictures, wide_files  # noqa: F401  (fixtures)

# Test modules import MMDetection, which wants its gaps filled first.
dinor1.register_all()

ROOT = Path(__file__).parents[1]
torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))


@pytest.fixture(scope='session')
def repo() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope='session')
def shared_dir() -> Path:
    """Reference numbers and data sets that only the developers have, beside the repository."""
    path = Path(os.environ.get('DINOR1_SHARED', ROOT.parent / 'shared'))
    if not path.is_dir():
        pytest.skip('needs the shared reference folder, which is beside the repository on developers machines only')
    return path


@pytest.fixture(autouse=True)
def _default_scope() -> None:
    """A Runner sets the default scope for the whole process: undo what the test before chose."""
    init_default_scope('dinor1')


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test that draws random numbers draws the same ones every time."""
    torch.manual_seed(0)


def tiny_config(**overrides) -> Config:
    """The nano model at width 32, prompted by images alone: builds and runs in a blink."""
    cfg = Config.fromfile(ROOT / 'configs/_base_/models/dino_r1_nano.py')
    cfg.merge_from_dict(
        {
            'model.transformer.embed_dims': 32,
            'model.transformer.num_heads': 4,
            'model.transformer.feedforward_channels': 48,
            'model.num_queries': 12,
            'model.encoder.num_layers': 1,
            'model.decoder.num_layers': 2,
            'model.backbone.base_channels': 8,
            'model.neck.in_channels': [16, 32],
            'model.prompts.language_model': None,
            'model.prompts.alignment': None,
            'model.prompts.text_prompts': 'token',
            'model.bbox_head.num_classes': 8,
            'model.dn_cfg.group_cfg.num_dn_queries': 8,
            'model.test_cfg.max_per_img': 10,
            **overrides,
        }
    )
    return cfg


@pytest.fixture
def build_tiny() -> Callable:
    """``build_tiny(**overrides)`` makes a seeded tiny DINO-R1."""

    def build(seed: int = 0, **overrides):
        from dinor1.registry import MODELS

        torch.manual_seed(seed)
        model = MODELS.build(tiny_config(**overrides).model)
        # MMEngine's init_weights prints a line per parameter where there is no log file; its result is all we want.
        model.init_weights()
        return model

    return build


@pytest.fixture
def make_batch() -> Callable:
    """``make_batch(counts)`` makes random images with that many boxes each."""

    def make(counts=(2, 1), side: int = 64, shapes=None, seed: int = 0, num_classes: int = 8):
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(len(counts), 3, side, side, generator=generator)
        samples = []
        for i, count in enumerate(counts):
            height, width = shapes[i] if shapes else (side, side)
            inputs[i, :, height:] = 0
            inputs[i, :, :, width:] = 0
            corner = torch.rand(count, 2, generator=generator) * 0.5
            size = torch.rand(count, 2, generator=generator) * 0.3 + 0.15
            boxes = torch.cat([corner, corner + size], 1) * torch.tensor([width, height, width, height])
            sample = DetDataSample(
                metainfo=dict(
                    img_shape=(height, width),
                    ori_shape=(height, width),
                    batch_input_shape=(side, side),
                    scale_factor=(1.0, 1.0),
                    img_id=i,
                )
            )
            labels = torch.randint(0, num_classes, (count,), generator=generator)
            sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
            samples.append(sample)
        return inputs, samples

    return make
