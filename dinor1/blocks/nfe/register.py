"""Registration of this block's components."""


def register() -> None:
    """Import the modules whose decorators register components. Idempotent."""
    from . import dataset, link_predictor, metric  # noqa: F401
