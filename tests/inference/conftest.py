"""An inferencer with a tiny model, without and with prompts."""

import pytest

from dinor1.inference.inferencer import DINOR1Inferencer
from tests.inference.comparisons import BOXES, NAMES
from tests.model_files import random_image


@pytest.fixture(scope='module')
def loaded(model_files):
    return DINOR1Inferencer(model_files.config, model_files.checkpoint, device='cpu')


@pytest.fixture
def inferencer(loaded):
    """An inferencer without prompts."""
    loaded.reset_prompts()
    return loaded


@pytest.fixture
def prompted(inferencer):
    """The inferencer with prompts for three classes."""
    inferencer.set_prompts(visual=[(random_image(60, 80), BOXES, NAMES)])
    return inferencer


@pytest.fixture
def detector(inferencer):
    """The inferencer with prompts for two classes."""
    inferencer.set_prompts(visual=[(random_image(60, 80), [[5, 5, 30, 40], [40, 10, 70, 50]], ['cat', 'dog'])])
    return inferencer
