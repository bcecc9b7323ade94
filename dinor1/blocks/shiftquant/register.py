"""Registration of this block's components."""


def register() -> None:
    """Import the modules whose decorators register components. Idempotent."""
    from . import converter  # noqa: F401
