"""The tiny icon world of the tests, and the installed packs, where they are."""

import importlib.util
from types import SimpleNamespace

import pytest

from dinor1.datasets.icons.library import load_library
from dinor1.datasets.icons.packs import PACKS
from tests.icon_files import (  # noqa: F401, fixtures
    HAS_RENDERER,
    pattern,
    small_world,
    svg,
    tiny_drawings,
    tiny_library,
    word,
)

HAS_PACKS = HAS_RENDERER and all(importlib.util.find_spec(pack.module) for pack in PACKS)


@pytest.fixture(scope='session')
def draw():
    """Functions that make drawings."""
    return SimpleNamespace(svg=svg, pattern=pattern, word=word)


@pytest.fixture(scope='session')
def installed_library(tmp_path_factory):
    """The whole library of the installed packs, rendered again."""
    if not HAS_PACKS:
        pytest.skip("needs pip install 'dinor1[icons]'")
    return load_library(tmp_path_factory.mktemp('cache'), workers=2)
