"""A tiny icon world of drawings made here, for tests in several folders."""

import importlib.util

import numpy as np
import pytest

from dinor1.datasets.icons.library import build_library
from dinor1.datasets.icons.packs import Drawing
from dinor1.datasets.icons.splits import SPLITS, SplitSizes
from dinor1.datasets.icons.world import generate

HAS_RENDERER = importlib.util.find_spec('resvg_py') is not None
# Images of each split.
SIZES = {split: 4 for split in SPLITS} | {'train': 12}


def svg(content: str) -> str:
    """SVG of 50 x 50 units."""
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 50 50">{content}</svg>'


def pattern(number: int) -> str:
    """Random cells of a 5 x 5 grid; different numbers give silhouettes that differ."""
    filled = np.random.default_rng(number).random((5, 5)) < 0.5
    filled[0, 0] = filled[4, 4] = True
    cells = [f'<rect x="{10 * x}" y="{10 * y}" width="10" height="10"/>' for y, x in np.argwhere(filled).tolist()]
    return svg(''.join(cells))


def word(number: int) -> str:
    """A word of letters alone for each number."""
    return 'k' + ''.join('bcdfghjlmn'[int(digit)] for digit in str(number))


@pytest.fixture(scope='session')
def tiny_drawings():
    """40 concepts of four drawings each, a fifth one of the pack for test_style, and clutter of one drawing."""
    drawings = [Drawing('mdi', f's{k}', word(i), pattern(4 * i + k)) for i in range(40) for k in range(4)]
    drawings += [Drawing('lucide', '', word(i), pattern(1000 + i)) for i in range(40)]
    drawings += [
        Drawing('openmoji', '', f'q{word(i)}', pattern(2000 + i).replace('<rect', '<rect fill="red"')) for i in range(6)
    ]
    return drawings


@pytest.fixture(scope='session')
def tiny_library(tiny_drawings):
    if not HAS_RENDERER:
        pytest.skip("needs pip install 'dinor1[icons]'")
    sizes = SplitSizes(train=10, val_novel=3, test_novel=4, clutter=4)
    return build_library(tiny_drawings, versions={'made here': '1'}, sizes=sizes)


@pytest.fixture(scope='session')
def small_world(tiny_library, tmp_path_factory):
    """Folder of the world, named ``icons``."""
    root = tmp_path_factory.mktemp('data') / 'icons'
    assert generate(root, sizes=SIZES, library=tiny_library)
    return root
