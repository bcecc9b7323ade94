"""Split a text into class names."""

import logging
import re

from mmengine.logging import print_log

from dinor1.utils.class_names import check_class_name, distinct_names

_SPACED_DOT = re.compile(r'(?:^|(?<=\s))\.(?=\s|$)')
# A dot at the end of a word; not that of a single letter or of initials, as in "U.S. flag".
_FINAL_DOT = re.compile(r'(?<!\s)(?<!\.)\.(?=\s|$)')
_INITIALS = re.compile(r'(?:^|\s)-?(?:[^\W\d_]\.)*[^\W\d_]$')
_COMMAS = re.compile('[,;\uff0c\u3001\uff1b]')


def split_text(text: str) -> list[str]:
    """Split a text such as ``'cat . dog'`` into distinct class names.

    If a dot with blanks on both sides occurs, only such dots separate names, so that names may contain dots: ``'St.
    Bernard . U.S. flag'``. Otherwise a dot at the end of a word separates names, as in ``'a cat. a dog.'``, unless it
    ends a single letter or initials. Commas are not separators; if the only class has one, the user gets a warning.

    Returns:
        The names in order, without blanks around them; of several spellings of a class, the first.

    Raises:
        InputError: the text is not valid Unicode.
    """
    # Split at dots between blanks; a dot at the end of the text separates nothing.
    parts = _SPACED_DOT.split(text)
    if len(parts) > 1:
        parts = [part if i < len(parts) - 1 else _without_final_dot(part) for i, part in enumerate(parts)]
    else:
        # Or split at dots that end a word.
        cuts = [dot.start() for dot in _FINAL_DOT.finditer(text) if not _INITIALS.search(text[: dot.start()])]
        parts = [text[a:b] for a, b in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(text)], strict=True)]
    # Remove blanks and repetitions.
    names = distinct_names(' '.join(part.split()) for part in parts if part.strip())
    names = [check_class_name(name, 'text') for name in names]
    # Warn about commas.
    if len(names) == 1 and _COMMAS.search(names[0]):
        separated = ' . '.join(part.strip() for part in _COMMAS.split(names[0]) if part.strip())
        print_log(
            f'text {text!r} is one class, because only dots separate classes; write {separated!r} for several',
            logger='current',
            level=logging.WARNING,
        )
    return names


def _without_final_dot(text: str) -> str:
    """The text without a dot at its end, unless the dot ends initials."""
    text = text.rstrip()
    return text if not text.endswith('.') or _INITIALS.search(text[:-1]) else text[:-1]
