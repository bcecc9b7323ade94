"""Class names as users write them."""


def split_text(text: str) -> list[str]:
    """Split a text such as ``'cat . dog'`` into distinct class names."""
    names = [' '.join(part.split()) for part in text.split('.')]
    return list(dict.fromkeys(name for name in names if name))
