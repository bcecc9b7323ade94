"""Graphs of the stochastic block model: the two node classification tasks of the graph transformer's paper.

Dwivedi et al., *Benchmarking Graph Neural Networks*, arXiv 2003.00982. The parameters are those of the code that made
the published sets. The generated graphs have the same distribution, but are not the same. Sizes are uniform in
[size_min, size_max).
"""

from dataclasses import dataclass

import numpy as np
import torch

from .batching import Graph

# Spawn keys of the seed, for graph i of a split and for pattern i, which all splits share.
_GRAPHS, _PATTERNS = 0, 1


@dataclass(frozen=True)
class ClusterParameters:
    """The block model of CLUSTER.

    Attributes:
        num_classes: Number C of communities.
        p: Probability of an edge inside a community.
        q: Probability of an edge between two communities.
    """

    num_classes: int = 6
    p: float = 0.55
    q: float = 0.25


@dataclass(frozen=True)
class PatternParameters:
    """The block model of PATTERN.

    Attributes:
        num_patterns: Number of different patterns with fixed edges and types; graph i has pattern i modulo this number,
            and all splits of a seed share the patterns. ``None``: each graph has its own.
        num_communities: Number of communities beside the pattern.
        p: Probability of an edge inside a community.
        q: Probability of an edge between two communities.
        p_pattern: Probability of an edge inside the pattern, and between it and any other node.
        num_types: Number of values of ``x``, drawn uniformly.

    Raises:
        ValueError: the number of patterns is out of range.
    """

    num_patterns: int | None = 100
    num_communities: int = 5
    p: float = 0.5
    q: float = 0.35
    p_pattern: float = 0.5
    num_types: int = 3

    def __post_init__(self) -> None:
        if self.num_patterns is not None and self.num_patterns < 1:
            raise ValueError(f'num_patterns must be positive, or None for one per graph; got {self.num_patterns}')


def make_sbm_cluster(
    num_graphs: int,
    seed: int,
    size_min: int = 5,
    size_max: int = 35,
    *,
    parameters: ClusterParameters | None = None,
    split: int = 0,
    start: int = 0,
) -> list[Graph]:
    """CLUSTER: find the community of each node, given one labelled node per community.

    Args:
        num_graphs: Number of graphs.
        seed: At least 0. Graph i depends on (seed, split, i) only, not on ``num_graphs``.
        size_min: Smallest community.
        size_max: Size of the largest community plus 1.
        parameters: Communities and probabilities; None: the published ones.
        split: Index of the split, so that splits of one seed differ.
        start: Index of the first graph.

    Returns:
        Graphs of C communities. ``x`` ``(N,)`` in [0, C]: for one node of each community, its number from 1, and 0 for
        all others. ``y`` ``(N,)`` in [0, C).

    Raises:
        ValueError: sizes or seed are out of range.
    """
    _check(num_graphs, seed, size_min, size_max)
    parameters = parameters or ClusterParameters()
    num_classes, p, q = parameters.num_classes, parameters.p, parameters.q
    graphs = []
    for i in range(start, start + num_graphs):
        rng = _generator(seed, _GRAPHS, split, i)
        # Draw the community of each node.
        label = rng.permutation(np.arange(num_classes).repeat(rng.integers(size_min, size_max, num_classes)))
        order = rng.permutation(len(label))
        # Reveal the label of one random node per community: the first in a random order.
        _, first = np.unique(label[order], return_index=True)
        known = order[first]
        x = np.zeros(len(label), np.int64)
        x[known] = label[known] + 1
        graphs.append(_graph(rng, x, label, _block_probability(label, p, q)))
    return graphs


def make_sbm_pattern(
    num_graphs: int,
    seed: int,
    size_min: int = 5,
    size_max: int = 35,
    *,
    parameters: PatternParameters | None = None,
    split: int = 0,
    start: int = 0,
) -> list[Graph]:
    """PATTERN: find the nodes of a planted subgraph.

    Args:
        num_graphs: Number of graphs.
        seed: See :func:`make_sbm_cluster`.
        size_min: Smallest community and smallest pattern.
        size_max: Largest size plus 1.
        parameters: Patterns, communities and probabilities; None: the published ones.
        split: See :func:`make_sbm_cluster`.
        start: See :func:`make_sbm_cluster`.

    Returns:
        Graphs with ``x`` ``(N,)`` in [0, num_types) and ``y`` ``(N,)``, 1 for nodes of the pattern.

    Raises:
        ValueError: sizes or seed are out of range.
    """
    _check(num_graphs, seed, size_min, size_max)
    parameters = parameters or PatternParameters()
    num_patterns, num_communities = parameters.num_patterns, parameters.num_communities
    p_pattern, num_types = parameters.p_pattern, parameters.num_types

    def draw_pattern(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        size = int(rng.integers(size_min, size_max))
        return _adjacency(rng, np.full((size, size), p_pattern)), rng.integers(0, num_types, size)

    # Draw the patterns that several graphs share.
    shared = [draw_pattern(_generator(seed, _PATTERNS, i)) for i in range(num_patterns or 0)]
    graphs = []
    for i in range(start, start + num_graphs):
        rng = _generator(seed, _GRAPHS, split, i)
        pattern, pattern_x = shared[i % num_patterns] if shared else draw_pattern(rng)
        # Draw the communities, and append the pattern as one more.
        block = np.arange(num_communities).repeat(rng.integers(size_min, size_max, num_communities))
        block = np.concatenate([block, np.full(len(pattern), num_communities)])
        probability = _block_probability(block, parameters.p, parameters.q)
        planted = block == num_communities
        probability[planted] = probability[:, planted] = p_pattern
        # Draw the edges and node types, and overwrite those inside the pattern.
        adjacency = _adjacency(rng, probability)
        adjacency[np.ix_(planted, planted)] = pattern
        x = rng.integers(0, num_types, len(block))
        x[planted] = pattern_x
        # Shuffle the nodes.
        order = rng.permutation(len(block))
        graphs.append(_to_graph(adjacency[np.ix_(order, order)], x[order], planted[order].astype(np.int64)))
    return graphs


def _check(num_graphs: int, seed: int, size_min: int, size_max: int) -> None:
    if num_graphs < 0 or seed < 0:
        raise ValueError(f'num_graphs and seed must not be negative, got {num_graphs} and {seed}')
    if not 1 <= size_min < size_max:
        raise ValueError(f'expected 1 <= size_min < size_max, got {size_min} and {size_max}')


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _block_probability(block: np.ndarray, p: float, q: float) -> np.ndarray:
    return np.where(block[:, None] == block, p, q)


def _adjacency(rng: np.random.Generator, probability: np.ndarray) -> np.ndarray:
    """Symmetric (N, N) bool without self-loops; each pair of nodes is drawn once."""
    upper = np.triu(rng.random(probability.shape) < probability, 1)
    return upper | upper.T


def _graph(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, probability: np.ndarray) -> Graph:
    return _to_graph(_adjacency(rng, probability), x, y)


def _to_graph(adjacency: np.ndarray, x: np.ndarray, y: np.ndarray) -> Graph:
    edge_index = torch.from_numpy(np.stack(np.nonzero(adjacency)))
    return Graph(torch.from_numpy(x), edge_index, torch.from_numpy(y))
