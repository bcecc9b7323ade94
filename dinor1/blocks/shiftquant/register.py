"""The names under which configs know this block."""


def register() -> None:
    """Import the modules whose decorators register components. Idempotent."""
    from . import converter  # noqa: F401
