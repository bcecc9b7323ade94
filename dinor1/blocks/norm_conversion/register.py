"""Registration of this block's components."""


def register() -> None:
    """Import the modules whose decorators register components. Idempotent."""
    from . import converter, cross_entropy, gpt2, topics  # noqa: F401
