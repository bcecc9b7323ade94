"""Fixtures: the shared reference folder, a tiny model, and batches for it."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# torch reads this on import. Waiting threads sleep: spinning takes ten times as long on two busy cores.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
# Each worker of `pytest -n` has one core; processes that a test starts inherit the setting.
os.environ['OMP_NUM_THREADS'] = '1' if 'PYTEST_XDIST_WORKER' in os.environ else '2'

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

import dinor1
from tests.model_files import image_folder, model_files, other_files, untrained_bert, wide_files  # noqa: F401

# Fill the gaps of MMDetection before test modules import it.
dinor1.register_all()

ROOT = Path(__file__).parents[1]
torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))


@pytest.fixture(scope='session')
def repo() -> Path:
    """Root folder of the repository."""
    return ROOT


@pytest.fixture(scope='session')
def shared_dir() -> Path:
    """Folder of reference results and data sets, which only developers have, next to the repository."""
    path = Path(os.environ.get('DINOR1_SHARED', ROOT.parent / 'shared'))
    if not path.is_dir():
        pytest.skip("needs the shared reference folder, which is next to the repository on developers' machines only")
    return path


@pytest.fixture(autouse=True)
def _default_scope() -> None:
    """Reset the default scope, which a Runner of an earlier test may have set for the whole process."""
    init_default_scope('dinor1')


class _StandardOutput:
    """The standard output of the moment: pytest gives each test another one, and closes it afterwards."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


@pytest.fixture(autouse=True)
def _logs_to_current_stdout() -> None:
    """Let the logger of an earlier test write to the standard output of this test, and to no closed file."""
    logger = MMLogger.get_current_instance()
    logger.handlers = [h for h in logger.handlers if not (isinstance(h, logging.FileHandler) and h.stream is None)]
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.stream = _StandardOutput()  # setStream would flush the closed one


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed torch, so that a test draws the same random numbers every time."""
    torch.manual_seed(0)


@pytest.fixture
def logged_warnings(caplog) -> Iterator[Callable[[], list[str]]]:
    """``logged_warnings()`` lists the warnings that were logged in this test."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    logger.removeHandler(caplog.handler)


def tiny_config(**overrides) -> Config:
    """Config of the nano model at width 32 without text prompts, which builds and runs in a fraction of a second."""
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
    """``build_tiny(**overrides)`` builds a tiny DINO-R1 with seeded weights."""

    def build(seed: int = 0, **overrides):
        from dinor1.registry import MODELS

        torch.manual_seed(seed)
        model = MODELS.build(tiny_config(**overrides).model)
        model.init_weights()
        return model

    return build


@pytest.fixture
def make_batch() -> Callable:
    """``make_batch(counts)`` makes random images, image i with ``counts[i]`` random boxes."""

    def make(counts=(2, 1), side: int = 64, shapes=None, seed: int = 0, num_classes: int = 8):
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(len(counts), 3, side, side, generator=generator)
        samples = []
        for i, count in enumerate(counts):
            # Pad the image with zeros to the size of the batch.
            height, width = shapes[i] if shapes else (side, side)
            inputs[i, :, height:] = 0
            inputs[i, :, :, width:] = 0
            # Draw boxes and labels.
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
