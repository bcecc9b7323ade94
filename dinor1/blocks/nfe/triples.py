"""Reading a knowledge graph: three files of triples, one for each of train, valid and test.

The form is that in which WN18RR and FB15k-237 are distributed: ``train.txt``, ``valid.txt`` and ``test.txt`` (or the
same compressed, ``.txt.gz``), a triple per line, head, relation and tail separated by tabs.
"""

import gzip
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from dinor1.utils.errors import InputError

from .known_tails import KnownTails
from .vocabulary import Vocabulary

SPLITS = ('train', 'valid', 'test')

Names = tuple[str, str, str]


@dataclass(frozen=True)
class TripleDataset:
    """A knowledge graph in numbers.

    Attributes:
        train: ``(n, 3)`` int64, rows (head, relation, tail).
        valid: Likewise.
        test: Likewise.
        entities: Names of the entities.
        relations: Names of the relations, without reciprocals.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    entities: Vocabulary
    relations: Vocabulary

    @classmethod
    def read(
        cls,
        root: str | os.PathLike,
        *,
        entities: Iterable[str] | None = None,
        relations: Iterable[str] | None = None,
    ) -> 'TripleDataset':
        """Read the three files below ``root``.

        Without given names, the entities are those of all three files and the relations those of train, each sorted, so
        that the numbers depend on nothing but the files. An entity that train does not have is legal (WN18RR's test has
        209) though nothing can be learned about it; such a relation is taken for a slip.

        Args:
            root: Folder.
            entities: All names that may occur, in the order of their numbers, for instance those of an earlier model.
            relations: Likewise.

        Raises:
            InputError: a file is missing, damaged, empty or not of this form, or has a name that is not known.
        """
        paths = {split: find_file(root, split) for split in SPLITS}
        triples = {split: read_triples(path) for split, path in paths.items()}
        if entities is None:
            entities = sorted({name for h, _, t in chain.from_iterable(triples.values()) for name in (h, t)})
        if relations is None:
            relations = sorted({r for _, r, _ in triples['train']})
        entities, relations = Vocabulary(entities, 'entity'), Vocabulary(relations, 'relation')
        numbers = {split: encode_triples(triples[split], entities, relations, str(paths[split])) for split in SPLITS}
        return cls(**numbers, entities=entities, relations=relations)

    def filter(self) -> KnownTails:
        """Every tail that train, valid or test gives to a (head, relation), in both directions.

        Relation ``r + len(relations)`` is the reciprocal of ``r``.
        """
        triples = with_reciprocals(torch.cat([self.train, self.valid, self.test]), len(self.relations))
        return KnownTails(triples, len(self.entities), 2 * len(self.relations))


def with_reciprocals(triples: Tensor, num_relations: int) -> Tensor:
    """Each (h, r, t) followed by (t, r + num_relations, h).

    Args:
        triples: ``(n, 3)``.
        num_relations: Before reciprocals.

    Returns:
        ``(2n, 3)``.
    """
    heads, relations, tails = triples.unbind(1)
    backward = torch.stack([tails, relations + num_relations, heads], 1)
    return torch.stack([triples, backward], 1).flatten(0, 1)


def find_file(root: str | os.PathLike, split: str) -> Path:
    """The file of a split, compressed or not.

    Raises:
        InputError: there is none.
    """
    for name in (f'{split}.txt', f'{split}.txt.gz'):
        if (Path(root) / name).is_file():
            return Path(root) / name
    raise InputError(f'{root}: neither {split}.txt nor {split}.txt.gz is there; check the folder')


def read_triples(path: str | os.PathLike) -> list[Names]:
    """Read head, relation, tail from the lines of a file. Empty lines at the end are ignored.

    Raises:
        InputError: the file cannot be read, is not UTF-8, holds nothing, or a line is no triple.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == '.gz' else data).decode('utf-8')
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; check the path') from None
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: not UTF-8 text (byte {error.start}); convert or download it again') from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f'{path}: cannot be read ({error}); download it again') from None
    # Not splitlines(), which also splits at separators that may be part of a name.
    lines = text.removeprefix('\ufeff').rstrip('\r\n').split('\n')
    if lines == ['']:
        raise InputError(f'{path}: empty; expected a triple per line')
    triples = []
    for number, line in enumerate(lines, 1):
        fields = line.rstrip('\r').split('\t')
        if len(fields) != 3:
            raise InputError(
                f'{path}, line {number}: expected head, relation and tail separated by tabs, '
                f'found {len(fields)} field{"s" * (len(fields) != 1)} in {_short(line)}; correct the line'
            )
        if not all(field.strip() for field in fields):
            raise InputError(f'{path}, line {number}: an empty name in {_short(line)}; correct the line')
        triples.append(tuple(fields))
    return triples


def encode_triples(triples: Sequence[Names], entities: Vocabulary, relations: Vocabulary, path: str = '') -> Tensor:
    """Turn names into numbers.

    Args:
        triples: n times (head, relation, tail).
        entities: Names of the heads and tails.
        relations: Names of the relations.
        path: The file that they come from, for messages; triple i is then its line i + 1.

    Returns:
        ``(n, 3)`` int64.

    Raises:
        InputError: a name is not known.
    """
    find_entity, find_relation = entities.find, relations.find
    rows = [(find_entity(head), find_relation(relation), find_entity(tail)) for head, relation, tail in triples]
    for line, row in enumerate(rows, 1):
        if None in row:
            where = f'{path}, line {line}' if path else f'triple {line}'
            for name, vocabulary in zip(triples[line - 1], (entities, relations, entities), strict=True):
                vocabulary.number(name, where)
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 3)


def _short(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + '...')
