"""Read a knowledge graph from three files of triples: train, valid and test.

The format is that of WN18RR and FB15k-237: ``train.txt``, ``valid.txt`` and ``test.txt`` (or compressed, ``.txt.gz``)
with one triple per line: head, relation and tail, separated by tabs.
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
    """A knowledge graph as indices of entities and relations.

    Attributes:
        train: ``(n, 3)`` int64, rows (head, relation, tail).
        valid: ``(n, 3)`` int64.
        test: ``(n, 3)`` int64.
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
        """Read the three files in ``root``.

        By default the entities are those of all three files and the relations those of train, both sorted, so that
        indices depend only on the files. Entities that train does not have are allowed (WN18RR's test has 209), though
        they cannot be learned; a relation that train does not have is an error.

        Args:
            root: Folder.
            entities: All allowed names, in the order of their indices, for instance those of an earlier model.
            relations: The same for relations.

        Raises:
            InputError: a file is missing, damaged, empty or not of this form, or has an unknown name.
        """
        # Read the files.
        paths = {split: find_file(root, split) for split in SPLITS}
        triples = {split: read_triples(path) for split, path in paths.items()}
        # Build the vocabularies, and encode the triples.
        if entities is None:
            entities = sorted({name for h, _, t in chain.from_iterable(triples.values()) for name in (h, t)})
        if relations is None:
            relations = sorted({r for _, r, _ in triples['train']})
        entities, relations = Vocabulary(entities, 'entity'), Vocabulary(relations, 'relation')
        numbers = {split: encode_triples(triples[split], entities, relations, str(paths[split])) for split in SPLITS}
        return cls(**numbers, entities=entities, relations=relations)

    def filter(self) -> KnownTails:
        """Known tails of every (head, relation) in train, valid and test, in both directions.

        Relation ``r + len(relations)`` is the reciprocal of ``r``.
        """
        triples = with_reciprocals(torch.cat([self.train, self.valid, self.test]), len(self.relations))
        return KnownTails(triples, len(self.entities), 2 * len(self.relations))


def with_reciprocals(triples: Tensor, num_relations: int) -> Tensor:
    """Insert (t, r + num_relations, h) after each (h, r, t).

    Args:
        triples: ``(n, 3)``.
        num_relations: Number of relations without reciprocals.

    Returns:
        ``(2n, 3)``.
    """
    heads, relations, tails = triples.unbind(1)
    backward = torch.stack([tails, relations + num_relations, heads], 1)
    return torch.stack([triples, backward], 1).flatten(0, 1)


def find_file(root: str | os.PathLike, split: str) -> Path:
    """Find the file of a split, compressed or not.

    Raises:
        InputError: there is no such file.
    """
    for name in (f'{split}.txt', f'{split}.txt.gz'):
        if (Path(root) / name).is_file():
            return Path(root) / name
    raise InputError(f'{root}: found neither {split}.txt nor {split}.txt.gz; check the folder')


def read_triples(path: str | os.PathLike) -> list[Names]:
    """Read (head, relation, tail) from each line of a file. Empty lines at the end are ignored.

    Raises:
        InputError: the file cannot be read, is not UTF-8 or is empty, or a line is not a triple.
    """
    # Read and decode the file.
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
    # Split into lines. splitlines() would also split at separators that may be part of a name.
    lines = text.removeprefix('\ufeff').rstrip('\r\n').split('\n')
    if lines == ['']:
        raise InputError(f'{path}: empty; expected a triple per line')
    # Parse each line.
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
    """Convert names to indices.

    Args:
        triples: n times (head, relation, tail).
        entities: Names of the heads and tails.
        relations: Names of the relations.
        path: Name of the file for error messages; triple i is its line i + 1.

    Returns:
        ``(n, 3)`` int64.

    Raises:
        InputError: a name is unknown.
    """
    find_entity, find_relation = entities.find, relations.find
    rows = [(find_entity(head), find_relation(relation), find_entity(tail)) for head, relation, tail in triples]
    # Report the first unknown name.
    for line, row in enumerate(rows, 1):
        if None in row:
            where = f'{path}, line {line}' if path else f'triple {line}'
            for name, vocabulary in zip(triples[line - 1], (entities, relations, entities), strict=True):
                vocabulary.number(name, where)
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 3)


def _short(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + '...')
