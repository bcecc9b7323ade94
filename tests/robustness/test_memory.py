"""Memory of a process that predicts, and changes its prompts, for a long time."""

import gc
from pathlib import Path

import pytest

from dinor1.inference import DINOR1Inferencer, VisualPrompt

PAGE = 4096


def resident() -> int:
    """Resident memory of this process in bytes."""
    gc.collect()
    return int(Path('/proc/self/statm').read_text().split()[1]) * PAGE


def growth(model_files, image_folder, predictions: int, changes: int) -> float:
    """Growth of the resident memory as a share, after the first tenth of the work."""
    inferencer = DINOR1Inferencer(model_files.config, model_files.checkpoint, device='cpu')
    image, other = str(image_folder / '0.png'), str(image_folder / '3.png')
    before = 0
    for number in range(predictions):
        if number % (predictions // changes) == 0:
            box = [5 + number % 7, 5, 40, 40]
            inferencer.set_prompts(visual=[VisualPrompt(image, [box], [f'class {number}'])])
        inferencer.predict(other)
        if number == predictions // 10:
            before = resident()
    return resident() / before - 1


@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='needs the process file system of Linux')
@pytest.mark.parametrize(('predictions', 'changes'), [(100, 10), pytest.param(10_000, 1_000, marks=pytest.mark.slow)])
def test_memory_of_predictions_stays_flat(model_files, image_folder, predictions, changes):
    assert growth(model_files, image_folder, predictions, changes) < 0.02
