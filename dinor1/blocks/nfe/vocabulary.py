"""Names and their indices."""

import difflib
from collections.abc import Iterable, Sequence

from dinor1.utils.errors import InputError


class Vocabulary(Sequence[str]):
    """Names of entities or of relations, with their indices.

    Args:
        names: Names in the order of their indices.
        kind: Word for error messages: ``'entity'`` or ``'relation'``.

    Raises:
        InputError: a name occurs twice.
    """

    def __init__(self, names: Iterable[str], kind: str = 'entity') -> None:
        self.names = tuple(names)
        self.kind = kind
        self._numbers = {name: number for number, name in enumerate(self.names)}
        if len(self._numbers) != len(self.names):
            twice = next(name for number, name in enumerate(self.names) if self._numbers[name] != number)
            raise InputError(f'{kind} {twice!r} is listed twice; names must be unique')

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number):
        return self.names[number]

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f'Vocabulary({len(self)} x {self.kind})'

    def find(self, name: str) -> int | None:
        """Index of ``name``, or ``None`` if it is unknown."""
        return self._numbers.get(name)

    def number(self, name: str, where: str = '') -> int:
        """Index of ``name``.

        Args:
            name: Name, exactly as listed.
            where: Source of the name, such as a file and a line, for the error message.

        Raises:
            InputError: the name is unknown; the message lists the nearest names.
        """
        try:
            return self._numbers[name]
        except KeyError:
            near = difflib.get_close_matches(name, self.names, n=3, cutoff=0.7)
            hint = f'the nearest are {", ".join(map(repr, near))}' if near else f'none of {len(self)} names is similar'
            place = f'{where}: ' if where else ''
            raise InputError(f'{place}unknown {self.kind} {name!r}; {hint}: correct the name') from None
