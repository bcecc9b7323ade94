"""The converters' tests share the fixtures of the norms."""

from tests.blocks.normalization.conftest import one_thread, oracle  # noqa: F401  (fixtures)
