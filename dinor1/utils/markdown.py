"""Write tables in Markdown, as a whole or row by row."""

from collections.abc import Iterable, Sequence

_RULES = {'l': '---|', 'r': '---:|'}


def table_head(heads: Sequence[str], align: str = '') -> str:
    """The first two lines of a table.

    Args:
        heads: Heading of each column.
        align: A letter per column, ``l`` for text or ``r`` for numbers. Default: the first column is text, the others
            are numbers.

    Raises:
        ValueError: ``align`` has a wrong length, or contains other letters.
    """
    align = align or 'l' + 'r' * (len(heads) - 1)
    if len(align) != len(heads) or not set(align) <= set(_RULES):
        raise ValueError(f'table_head: expected {len(heads)} letters l or r in align, got {align!r}')
    return f'{table_row(heads)}\n|{"".join(_RULES[letter] for letter in align)}'


def table_row(cells: Iterable[object]) -> str:
    """One line of a table. Within a cell, a vertical bar becomes ``/`` and a line break becomes a space."""
    return f'| {" | ".join(str(cell).replace("|", "/").replace(chr(10), " ") for cell in cells)} |'


def table(heads: Sequence[str], rows: Iterable[Iterable[object]], align: str = '') -> str:
    """A whole table; for ``align`` and errors see :func:`table_head`."""
    return '\n'.join([table_head(heads, align), *map(table_row, rows)])
