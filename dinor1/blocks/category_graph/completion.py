"""Link prediction with NFE on the category graph: ranking of held-out edges, and completion with probable edges.

Xiao, He and Cao, arXiv 2409.19977, as a link predictor for small graphs; see :mod:`dinor1.blocks.nfe`.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from dinor1.blocks.nfe import (
    NFE,
    KnownTails,
    filtered_ranking,
    fit,
    graph_triples,
    predict_missing_edges,
    with_reciprocals,
)

from .graph import INVERSE, CategoryGraph


def complete_category_graph(
    graph: CategoryGraph, relation: str, nfe: NFE, *, topk: int = 5, min_prob: float = 0.5
) -> CategoryGraph:
    """Add edges that the link predictor finds probable, and their inverses; recompute the Laplacian code.

    Args:
        graph: Not changed.
        relation: One of ``graph.relations``.
        nfe: Trained on ``graph_triples(graph)``, for instance by :func:`dinor1.blocks.nfe.fit`.
        topk: Largest number of new edges per head.
        min_prob: Least probability of a new edge; the probability becomes its weight.

    Returns:
        A denser graph.

    Raises:
        ValueError: see :func:`~dinor1.blocks.nfe.predict_missing_edges`.
    """
    denser = predict_missing_edges(nfe, graph, relation, topk=topk, min_prob=min_prob)
    if relation in INVERSE:
        old = len(graph.edge_type)
        denser = _add_inverse(denser, old, graph.relations.index(INVERSE[relation]))
    return denser.with_encoding()


def held_out_ranking(
    graph: CategoryGraph, *, share: float = 0.1, seed: int = 0, epochs: int = 200, lr: float = 0.03, **nfe: Any
) -> dict[str, float | Tensor]:
    """Train on part of the edges, and rank the tails of the held-out edges among all nodes.

    An edge and its inverse are held out together, since either one reveals the other.

    Args:
        graph: With edges between at least two pairs of nodes.
        share: Share of the linked pairs of nodes to hold out, in (0, 1).
        seed: Seed of the split and of the training.
        epochs: Number of training epochs.
        lr: Learning rate.
        nfe: Arguments of :class:`~dinor1.blocks.nfe.NFE`, such as ``dim`` and ``kind``.

    Returns:
        See :func:`~dinor1.blocks.nfe.filtered_ranking`; and ``chance``, the mean reciprocal rank of a random guess
        among all nodes.

    Raises:
        ValueError: the graph has too few edges to split.
    """
    # Choose the pairs of nodes to hold out.
    triples = graph_triples(graph)
    num_nodes, num_relations = len(graph.names), len(graph.relations)
    low, high = triples[:, [0, 2]].aminmax(dim=1)
    pairs, pair = (low * num_nodes + high).unique(return_inverse=True)
    count = round(share * len(pairs))
    if not 0 < count < len(pairs):
        raise ValueError(f'cannot hold out {share:g} of {len(pairs)} linked pairs; the graph needs more edges')
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(pairs), dtype=torch.bool)
    held[torch.randperm(len(pairs), generator=generator)[:count]] = True
    held = held.to(pair.device)[pair]
    # Train on the remaining edges without changing the global random state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NFE(num_nodes, num_relations, **nfe).to(triples.device)
    fit(model, triples[~held], epochs=epochs, lr=lr, seed=seed)
    # Rank the held-out edges.
    filters = KnownTails(with_reciprocals(triples, num_relations), num_nodes, 2 * num_relations)
    result = filtered_ranking(model.score_all, triples[held], filters, num_relations=num_relations)
    return result | dict(chance=float((1 / torch.arange(1, num_nodes + 1)).mean()))


def _add_inverse(graph: CategoryGraph, first: int, number: int) -> CategoryGraph:
    """Add the inverses (relation ``number``) of the edges from index ``first`` on, except existing ones."""
    num_nodes = len(graph.names)
    heads, tails = graph.edge_index[:, first:]
    same = graph.edge_type == number
    codes = graph.edge_index[0, same] * num_nodes + graph.edge_index[1, same]
    new = ~torch.isin(tails * num_nodes + heads, codes)
    return dataclasses.replace(
        graph,
        edge_index=torch.cat([graph.edge_index, torch.stack([tails, heads])[:, new]], 1),
        edge_type=torch.cat([graph.edge_type, graph.edge_type.new_full((int(new.sum()),), number)]),
        edge_weight=torch.cat([graph.edge_weight, graph.edge_weight[first:][new]]),
    )
