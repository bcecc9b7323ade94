"""Class names as people write them."""


def split_text(text: str) -> list[str]:
    """``'cat . dog'`` as class names, without repetition."""
    names = [' '.join(part.split()) for part in text.split('.')]
    return list(dict.fromkeys(name for name in names if name))
