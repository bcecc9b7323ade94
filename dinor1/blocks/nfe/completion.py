"""Graph completion: add missing edges that a link predictor finds probable."""

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
        edge_weight: ``(E,)``, the weight of each edge.
    """

    names: Sequence[str]
    relations: Sequence[str]
    edge_index: Tensor
    edge_type: Tensor
    edge_weight: Tensor


GraphT = TypeVar('GraphT', bound=TypedGraph)


def graph_triples(graph: TypedGraph) -> Tensor:
    """Edges as ``(E, 3)`` rows (head, relation, tail), for :func:`~dinor1.blocks.nfe.fit`."""
    return torch.stack([graph.edge_index[0], graph.edge_type, graph.edge_index[1]], 1)


@torch.no_grad()
def predict_missing_edges(
    nfe: NFE, graph: GraphT, relation: str, topk: int = 5, min_prob: float = 0.5, batch_size: int = 512
) -> GraphT:
    """Add the most likely edges of one relation.

    Args:
        nfe: Trained on the graph's triples, with the same indices for nodes and relations.
        graph: See :class:`TypedGraph`; not changed.
        relation: Name of the relation.
        topk: Largest number of new edges per head.
        min_prob: Least probability of a new edge, the sigmoid of its score, in [0, 1].
        batch_size: Heads per batch.

    Returns:
        A copy of the graph with the new edges after the existing ones and their probabilities as weights. Existing
        edges and self-loops are not added.

    Raises:
        ValueError: the graph does not have the relation, the sizes of model and graph differ, or ``topk`` is not
            positive.
    """
    # Check the arguments.
    if relation not in graph.relations:
        raise ValueError(f'unknown relation {relation!r}; the graph has {", ".join(graph.relations)}')
    if (nfe.num_entities, nfe.num_relations) != (len(graph.names), len(graph.relations)):
        raise ValueError(
            f'the model has {nfe.num_entities} entities and {nfe.num_relations} relations, '
            f'the graph {len(graph.names)} and {len(graph.relations)}; train it on this graph'
        )
    if topk < 1:
        raise ValueError(f'topk must be at least 1, got {topk}')
    # Score all tails of every head, without known edges and self-loops.
    number = list(graph.relations).index(relation)
    known = KnownTails(graph_triples(graph), nfe.num_entities, nfe.num_relations)
    edges, weights = [graph.edge_index], [graph.edge_weight]
    for heads in torch.arange(nfe.num_entities, device=graph.edge_index.device).split(batch_size):
        relations = torch.full_like(heads, number)
        probability = nfe.score_all(heads, relations).sigmoid()
        probability[known.lookup(heads, relations)] = -1
        probability[torch.arange(len(heads), device=heads.device), heads] = -1
        # Keep the most probable tails.
        best, tails = probability.topk(min(topk, nfe.num_entities), dim=1)
        row, rank = ((best >= min_prob) & (best >= 0)).nonzero(as_tuple=True)
        edges.append(torch.stack([heads[row], tails[row, rank]]))
        weights.append(best[row, rank].to(graph.edge_weight.dtype))
    # Append the new edges.
    edge_index = torch.cat(edges, 1)
    added = edge_index.shape[1] - len(graph.edge_type)
    return dataclasses.replace(
        graph,
        edge_index=edge_index,
        edge_type=torch.cat([graph.edge_type, graph.edge_type.new_full((added,), number)]),
        edge_weight=torch.cat(weights),
    )
