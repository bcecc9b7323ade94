"""The classes of a detector as nodes of a graph, in memory and on disk."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dinor1.blocks.graph_transformer import laplacian_positional_encoding
from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path

# Relations of every graph, by index. The head of an edge is its source, the tail its destination.
RELATIONS = ('hypernym', 'hyponym', 'co_occurs', 'similar')
# Relation of the edge in the opposite direction.
INVERSE = {'hypernym': 'hyponym', 'hyponym': 'hypernym', 'co_occurs': 'co_occurs', 'similar': 'similar'}

_FORMAT = 'dinor1.category_graph/1'
_TENSORS = ('edge_index', 'edge_type', 'edge_weight', 'pe')


@dataclass(frozen=True)
class CategoryGraph:
    """Classes, their ancestors, and the relations between them.

    Attributes:
        names: M names; the first ``num_classes`` are the detector's classes, the others their parents.
        num_classes: C.
        edge_index: ``(2, E)`` int64, row 0 sources (heads), row 1 destinations (tails).
        edge_type: ``(E,)`` int64, index into ``relations``.
        edge_weight: ``(E,)`` float32 in [0, 1].
        pe: ``(M, k)`` float32, Laplacian code of the whole graph.
        relations: Names of the relations; ``(c, hypernym, p)`` says that p is a parent of c.

    Raises:
        ValueError: shapes or indices do not match, or a name occurs twice.
    """

    names: tuple[str, ...]
    num_classes: int
    edge_index: Tensor
    edge_type: Tensor
    edge_weight: Tensor
    pe: Tensor
    relations: tuple[str, ...] = RELATIONS

    def __post_init__(self) -> None:
        num_nodes, num_edges = len(self.names), len(self.edge_type)
        # Check names, relations and sizes.
        if len(set(self.names)) != num_nodes:
            twice = next(name for i, name in enumerate(self.names) if name in self.names[:i])
            raise ValueError(f'{twice!r} is the name of two nodes; names must be unique')
        if self.relations[: len(RELATIONS)] != RELATIONS:
            raise ValueError(f'relations must begin with {", ".join(RELATIONS)}; got {", ".join(self.relations)}')
        if not 0 <= self.num_classes <= num_nodes:
            raise ValueError(f'got num_classes={self.num_classes}; must be in [0, {num_nodes}], the number of nodes')
        for name, shape in (('edge_index', (2, num_edges)), ('edge_weight', (num_edges,))):
            if getattr(self, name).shape != shape:
                raise ValueError(f'{name}: expected {shape}, got {tuple(getattr(self, name).shape)}')
        if self.pe.dim() != 2 or len(self.pe) != num_nodes:
            raise ValueError(f'pe: expected ({num_nodes}, k), got {tuple(self.pe.shape)}')
        # Check indices, unless they are on the meta device.
        for name, bound in (('edge_index', num_nodes), ('edge_type', len(self.relations))):
            numbers = getattr(self, name)
            if not numbers.is_meta and ((numbers < 0) | (numbers >= bound)).any():
                raise ValueError(f'{name} holds indices outside of [0, {bound})')

    def to(self, device: torch.device | str) -> 'CategoryGraph':
        """Copy of the graph on another device."""
        return self._with(**{name: getattr(self, name).to(device) for name in _TENSORS})

    def with_code(self, pe: Tensor) -> 'CategoryGraph':
        """Copy of the graph with another Laplacian code ``(M, k)``, on the device of the code."""
        return self.to(pe.device)._with(pe=pe)

    def _with(self, **tensors: Tensor) -> 'CategoryGraph':
        """Copy with other tensors for the same edges; keeps the cached ``below``."""
        other = dataclasses.replace(self, **tensors)
        if 'below' in self.__dict__:
            other.__dict__['below'] = self.below.to(other.edge_index.device)
        return other

    def with_encoding(self, pe_dim: int | None = None) -> 'CategoryGraph':
        """Copy of the graph with a new Laplacian code, for use after edges have changed.

        Args:
            pe_dim: Number of columns. Default: the current number.
        """
        columns = self.pe.shape[1] if pe_dim is None else pe_dim
        code = laplacian_positional_encoding(self.edge_index, len(self.names), columns)
        return dataclasses.replace(self, pe=code)

    def find(self, names: Sequence[str | None]) -> list[int]:
        """Indices of classes by name; -1 for a name that is not in the graph.

        Ignores case; an underscore equals a space.
        """
        return [-1 if name is None else self._numbers.get(_plain(name), -1) for name in names]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        # Reversed, so that the first of two names that differ only in case wins.
        return {_plain(name): i for i, name in reversed(list(enumerate(self.names[: self.num_classes])))}

    @functools.cached_property
    def below(self) -> Tensor:
        """``(M, C)`` bool: [m, c] = class c is m, or m is reached from c along ``hypernym`` edges."""
        # List the children of each node.
        upward = self.edge_type == self.relations.index('hypernym')
        children: list[list[int]] = [[] for _ in self.names]
        for child, parent in self.edge_index[:, upward].T.tolist():
            children[parent].append(child)
        # Search downward from every node.
        table = torch.zeros(len(self.names), self.num_classes, dtype=torch.bool)
        for node in range(len(self.names)):
            found, waiting = {node}, [node]
            while waiting:
                new = [child for child in children[waiting.pop()] if child not in found]
                found.update(new)
                waiting += new
            table[node, [n for n in found if n < self.num_classes]] = True
        return table.to(self.edge_index.device)

    def save(self, path: str | PathLike) -> None:
        """Write a ``.safetensors`` file, atomically."""
        metadata = dict(
            format=_FORMAT,
            names=json.dumps(self.names),
            num_classes=str(self.num_classes),
            relations=json.dumps(self.relations),
        )
        tensors = {name: getattr(self, name).cpu().contiguous() for name in _TENSORS}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: str | PathLike) -> 'CategoryGraph':
        """Read a graph.

        Raises:
            InputError: no such file, or not a category graph.
        """
        # Read the file.
        hint = 'make one with tools/build_category_graph.py'
        try:
            with safe_open(path, framework='pt') as file:
                metadata = file.metadata() or {}
                if metadata.get('format') != _FORMAT:
                    raise InputError(f'{path}: not a category graph of dinor1; {hint}')
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except FileNotFoundError:
            raise InputError(f'{path}: no such category graph; {hint}') from None
        except (SafetensorError, OSError) as error:
            raise InputError(f'{path}: not a readable safetensors file ({error})') from None
        # Build the graph.
        names, relations = (tuple(json.loads(metadata[key])) for key in ('names', 'relations'))
        return cls(names, int(metadata['num_classes']), relations=relations, **tensors)


def _plain(name: str) -> str:
    return ' '.join(name.replace('_', ' ').casefold().split())
