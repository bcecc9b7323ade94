"""Fixtures: a clean data set, and the tool that checks it."""

import pytest

from tests.annotations.samples import make_content, save, write_images
from tests.tools.conftest import call  # noqa: F401  (fixture)


@pytest.fixture
def root(tmp_path):
    """A clean data set: ``annotations/train.json`` and ``images/``."""
    write_images(tmp_path / 'images', make_content())
    save(tmp_path, make_content())
    return tmp_path


@pytest.fixture
def validate(call):  # noqa: F811
    """``validate(path, option, ...)`` runs the tool."""
    return lambda *arguments: call('dataset_converters/validate_dataset', *arguments)
