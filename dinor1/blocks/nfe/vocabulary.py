"""Names and their numbers."""

import difflib
from collections.abc import Iterable, Sequence

from dinor1.utils.errors import InputError


class Vocabulary(Sequence[str]):
    """The names of entities or of relations; the number of a name is its place.

    Args:
        names: In the order of the numbers.
        kind: What is named, for messages: ``'entity'`` or ``'relation'``.

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
        """The number of ``name``, or ``None``."""
        return self._numbers.get(name)

    def number(self, name: str, where: str = '') -> int:
        """The number of ``name``.

        Args:
            name: Exactly as listed.
            where: Where it was met, such as a file and a line; it begins the message.

        Raises:
            InputError: the name is not known; the message has the nearest ones.
        """
        try:
            return self._numbers[name]
        except KeyError:
            near = difflib.get_close_matches(name, self.names, n=3, cutoff=0.7)
            hint = (
                f'the nearest are {", ".join(map(repr, near))}' if near else f'{len(self)} are known, none is similar'
            )
            place = f'{where}: ' if where else ''
            raise InputError(f'{place}unknown {self.kind} {name!r}; {hint}: correct the name') from None
