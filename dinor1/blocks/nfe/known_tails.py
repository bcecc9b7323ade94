"""Filter of link prediction: the known true tails of each query (head, relation)."""

import torch
from torch import Tensor


class KnownTails:
    """Known tails per (head, relation), as sorted arrays for lookups of whole batches.

    Args:
        triples: ``(n, 3)`` int64, rows (head, relation, tail); repeated rows are ignored.
        num_entities: Number of entities; heads and tails are below it.
        num_relations: Number of relations including reciprocals.

    Raises:
        ValueError: the shape is wrong, or an index is out of range.
    """

    def __init__(self, triples: Tensor, num_entities: int, num_relations: int) -> None:
        if triples.dim() != 2 or triples.shape[1] != 3 or triples.dtype != torch.long:
            raise ValueError(f'triples must be (n, 3) int64, got {tuple(triples.shape)} {triples.dtype}')
        bounds = triples.new_tensor([num_entities, num_relations, num_entities])
        if ((triples < 0) | (triples >= bounds)).any():
            raise ValueError(f'triples hold indices outside of {num_entities} entities and {num_relations} relations')
        self.num_entities, self.num_relations = num_entities, num_relations
        heads, relations, tails = triples.unbind(1)
        # Encode each triple as one integer, sorted by query; 4.6 million entities and 1,600 relations fit in 63 bits.
        codes = ((heads * num_relations + relations) * num_entities + tails).unique()
        self.tails = codes % num_entities
        self.queries, self.counts = (codes // num_entities).unique_consecutive(return_counts=True)
        self.starts = self.counts.cumsum(0) - self.counts

    def to(self, device: torch.device | str) -> 'KnownTails':
        """Copy on another device."""
        moved = object.__new__(KnownTails)
        moved.num_entities, moved.num_relations = self.num_entities, self.num_relations
        for name in ('tails', 'queries', 'counts', 'starts'):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def lookup(self, heads: Tensor, relations: Tensor) -> tuple[Tensor, Tensor]:
        """Look up the known tails of a batch of queries.

        Args:
            heads: ``(B,)`` int64.
            relations: ``(B,)`` int64.

        Returns:
            ``(row, tail)``, each ``(K,)``: ``tail[k]`` is known for query ``row[k]``. Rows ascend, and so do the tails
            within a row; an unknown query has none.
        """
        if not len(self.queries):
            empty = torch.empty(0, dtype=torch.long, device=heads.device)
            return empty, empty
        # Find the range of each query in the sorted arrays.
        wanted = heads * self.num_relations + relations
        place = torch.searchsorted(self.queries, wanted).clamp_(max=len(self.queries) - 1)
        counts = self.counts[place] * (self.queries[place] == wanted)
        rows = torch.arange(len(heads), device=heads.device).repeat_interleave(counts)
        # Index of each entry within its row, from 0.
        within = torch.arange(len(rows), device=heads.device) - (counts.cumsum(0) - counts)[rows]
        return rows, self.tails[self.starts[place][rows] + within]

    def mask(self, heads: Tensor, relations: Tensor) -> Tensor:
        """``(B, num_entities)`` bool, True = known tail: the targets of multi-label training."""
        known = torch.zeros(len(heads), self.num_entities, dtype=torch.bool, device=heads.device)
        known[self.lookup(heads, relations)] = True
        return known
