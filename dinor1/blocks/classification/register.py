"""Registration of this block's components."""


def register() -> None:
    """Import the modules whose decorators register components. Idempotent."""
    from . import accuracy, conv_net, image_classifier, mnist, vit  # noqa: F401
