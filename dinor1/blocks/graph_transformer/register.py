"""Registration of this block's components."""


def register() -> None:
    """Import the modules whose decorators register components. Idempotent."""
    from . import dataset, metrics, plateau_hook, predictor, zinc  # noqa: F401
