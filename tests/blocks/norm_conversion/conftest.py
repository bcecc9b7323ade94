"""Fixtures of the norms, for the tests of the converters."""

from tests.blocks.normalization.conftest import one_thread, oracle  # noqa: F401  (fixtures)
