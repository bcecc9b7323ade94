"""Evaluation of link prediction: filtered ranking of all entities.

Bordes et al., *Translating Embeddings for Modeling Multi-relational Data*, NeurIPS 2013, section 4.1: for each test
triple, rank its tail among all entities except other known tails; then do the same for its head, which is the tail of
the reciprocal relation.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .known_tails import KnownTails
from .triples import with_reciprocals

Ties = Literal['pessimistic', 'optimistic', 'mean']
TIES: tuple[Ties, ...] = ('pessimistic', 'optimistic', 'mean')
HITS = (1, 3, 10)


@torch.no_grad()
def filtered_ranking(
    score_all: Callable[[Tensor, Tensor], Tensor],
    triples: Tensor,
    filters: KnownTails,
    *,
    num_relations: int,
    both_directions: bool = True,
    ties: Ties = 'pessimistic',
    batch_size: int = 512,
    max_scores: int = 2**25,
) -> dict[str, float | Tensor]:
    """Rank the tail of every triple, and its head, among all entities.

    Args:
        score_all: Maps heads ``(B,)`` and relations ``(B,)`` to the scores ``(B, N)`` of all entities as tails; larger
            is better.
        triples: ``(n, 3)``.
        filters: Known tails, usually of train, valid and test together, on the device of ``triples``.
        num_relations: Number of relations without reciprocals.
        both_directions: Also rank the head, as tail of the query (tail, relation + num_relations).
        ties: See :func:`filtered_ranks`.
        batch_size: Largest number of queries that are processed together.
        max_scores: Largest number of scores in memory: with many entities the batch shrinks, down to one query.

    Returns:
        ``mr`` and ``mrr``; ``hits@1``, ``hits@3``, ``hits@10`` as fractions; and ``ranks`` ``(2n,)`` or ``(n,)``, with
        both directions of a triple next to each other.

    Raises:
        ValueError: there are no triples, ``filters`` lack the reciprocal relations, or see :func:`filtered_ranks`.
    """
    if not len(triples):
        raise ValueError('triples is empty; give at least one')
    if filters.num_relations < (asked := num_relations * (1 + both_directions)):
        raise ValueError(f'filters have {filters.num_relations} relations, but {asked} are needed: add reciprocals')
    # Rank batch by batch.
    queries = with_reciprocals(triples, num_relations) if both_directions else triples
    batch_size = max(1, min(batch_size, max_scores // filters.num_entities))
    ranks = []
    for heads, relations, tails in (batch.unbind(1) for batch in queries.split(batch_size)):
        ranks.append(filtered_ranks(score_all(heads, relations), tails, *filters.lookup(heads, relations), ties=ties))
    ranks = torch.cat(ranks)
    return ranking_metrics(ranks) | {'ranks': ranks}


def filtered_ranks(
    scores: Tensor, tails: Tensor, known_rows: Tensor, known_tails: Tensor, *, ties: Ties = 'pessimistic'
) -> Tensor:
    """Rank of each query's tail among the entities that are not known tails of the query.

    The scores of known tails are not overwritten: known tails that score higher are counted and subtracted. This is
    exact for any finite score and does not change ``scores``.

    Args:
        scores: ``(B, N)``, larger is better.
        tails: ``(B,)``, the true tail; known or not, it does not compete with itself.
        known_rows: ``(K,)``, see :meth:`KnownTails.lookup`.
        known_tails: ``(K,)``.
        ties: An entity with the same score counts as better (``pessimistic``), as worse (``optimistic``), or as half
            (``mean``).

    Returns:
        ``(B,)`` from 1 to N, int64; float64 for ``mean``.

    Raises:
        ValueError: a score is not finite (NaN compares false and would rank first), or ``ties`` is unknown.
    """
    if ties not in TIES:
        raise ValueError(f'ties must be one of {", ".join(TIES)}; got {ties!r}')
    if scores.numel() and not torch.stack(scores.aminmax()).isfinite().all():
        raise ValueError(
            'scores must be finite, found NaN or infinity; lower the learning rate or check the parameters'
        )
    # Compare the true tail with the other known tails and with all entities.
    target = scores.gather(1, tails[:, None])
    others = known_tails != tails[known_rows]
    rows, columns = known_rows[others], known_tails[others]
    filtered, threshold = scores[rows, columns], target[rows, 0]

    def count(better: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        known = torch.zeros_like(tails).index_add_(0, rows, better(filtered, threshold).long())
        return better(scores, target).sum(1) - known

    if ties == 'optimistic':
        return 1 + count(torch.gt)
    # The target counts itself, which replaces the 1.
    if ties == 'pessimistic':
        return count(torch.ge)
    return (1 + count(torch.gt) + count(torch.ge)).double() / 2


def ranking_metrics(ranks: Tensor) -> dict[str, float]:
    """Summarise ``(n,)`` ranks: ``mr`` (mean), ``mrr`` (mean of 1 / rank) and ``hits@k`` (fraction up to k)."""
    ranks = ranks.double()
    metrics = {'mr': ranks.mean(), 'mrr': ranks.reciprocal().mean()}
    metrics |= {f'hits@{k}': (ranks <= k).double().mean() for k in HITS}
    return {name: value.item() for name, value in metrics.items()}
