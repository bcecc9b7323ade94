"""Completing a graph: edges that a link predictor finds probable and the graph does not have."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .known_tails import KnownTails
from .nfe import NFE


class TypedGraph(Protocol):
    """A dataclass with these fields, such as the category graph.

    Attributes:
        names: N names of the nodes.
        relations: R names of the relations.
        edge_index: ``(2, E)`` int64, row 0 heads, row 1 tails.
        edge_type: ``(E,)`` int64, the relation of each edge.
        edge_weight: ``(E,)``.
    """

    names: Sequence[str]
    relations: Sequence[str]
    edge_index: Tensor
    edge_type: Tensor
    edge_weight: Tensor


GraphT = TypeVar('GraphT', bound=TypedGraph)


def graph_triples(graph: TypedGraph) -> Tensor:
    """The edges as ``(E, 3)`` rows (head, relation, tail), for :func:`~dinor1.blocks.nfe.fit`."""
    return torch.stack([graph.edge_index[0], graph.edge_type, graph.edge_index[1]], 1)


@torch.no_grad()
def predict_missing_edges(
    nfe: NFE, graph: GraphT, relation: str, topk: int = 5, min_prob: float = 0.5, batch_size: int = 512
) -> GraphT:
    """Add the most likely edges of one relation.

    Args:
        nfe: Trained on the graph's triples, with the same numbers for nodes and relations.
        graph: See :class:`TypedGraph`; not changed.
        relation: Name of the relation.
        topk: New edges per head, at most.
        min_prob: In [0, 1]; edges whose probability, the sigmoid of the score, is below it are not added.
        batch_size: Heads at once.

    Returns:
        A copy of the graph with the new edges behind its own, the probability as weight. Neither an edge that is
        there already nor one from a node to itself is added.

    Raises:
        ValueError: the graph does not have the relation, the model is of another size, or ``topk`` is not positive.
    """
    if relation not in graph.relations:
        raise ValueError(f'unknown relation {relation!r}; the graph has {", ".join(graph.relations)}')
    if (nfe.num_entities, nfe.num_relations) != (len(graph.names), len(graph.relations)):
        raise ValueError(
            f'the model has {nfe.num_entities} entities and {nfe.num_relations} relations, '
            f'the graph {len(graph.names)} and {len(graph.relations)}; train it on this graph'
        )
    if topk < 1:
        raise ValueError(f'topk must be at least 1, got {topk}')
    number = list(graph.relations).index(relation)
    known = KnownTails(graph_triples(graph), nfe.num_entities, nfe.num_relations)
    edges, weights = [graph.edge_index], [graph.edge_weight]
    for heads in torch.arange(nfe.num_entities, device=graph.edge_index.device).split(batch_size):
        relations = torch.full_like(heads, number)
        probability = nfe.score_all(heads, relations).sigmoid()
        probability[known.lookup(heads, relations)] = -1
        probability[torch.arange(len(heads), device=heads.device), heads] = -1
        best, tails = probability.topk(min(topk, nfe.num_entities), dim=1)
        row, rank = ((best >= min_prob) & (best >= 0)).nonzero(as_tuple=True)
        edges.append(torch.stack([heads[row], tails[row, rank]]))
        weights.append(best[row, rank].to(graph.edge_weight.dtype))
    edge_index = torch.cat(edges, 1)
    added = edge_index.shape[1] - len(graph.edge_type)
    return dataclasses.replace(
        graph,
        edge_index=edge_index,
        edge_type=torch.cat([graph.edge_type, graph.edge_type.new_full((added,), number)]),
        edge_weight=torch.cat(weights),
    )
