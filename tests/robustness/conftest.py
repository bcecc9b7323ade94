"""Fixtures of complete tiny runs, for tests of what happens to bad input and to interrupted runs."""

from tests.engine.conftest import read_shapes_config, shapes_dir, tiny_run_config, train  # noqa: F401
