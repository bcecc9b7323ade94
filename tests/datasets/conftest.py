"""Fixtures of the data set tests."""

import gc

import pytest


@pytest.fixture(autouse=True, scope='module')
def _frozen_imports():
    """Hide all imported modules from the garbage collector, which MMEngine runs for every new data set."""
    gc.freeze()
    yield
    gc.unfreeze()
