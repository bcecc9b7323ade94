"""Weisfeiler-Lehman codes, the encoding that the paper compares with the Laplacian one.

Dwivedi and Bresson, arXiv 2012.09699, after Zhang et al., *Graph-BERT*, arXiv 2001.05140. A code is the rank of a hash
among the hashes of one graph. The same code means different things in different graphs, and a large graph can have more
codes than an embedding made for smaller graphs. Use the codes as node types with an embedding.
"""

import hashlib

import torch
from torch import Tensor


def weisfeiler_lehman_codes(edge_index: Tensor, num_nodes: int, rounds: int = 1) -> Tensor:
    """Colours of the nodes after some rounds of refinement.

    Args:
        edge_index: ``(2, E)`` int64 of one graph; a node reads the colours of its sources.
        num_nodes: N.
        rounds: Largest number of rounds; ends early if nothing changes. The release computes two and uses the first.

    Returns:
        ``(N,)`` int64, at least 1.
    """
    # List the sources of each node.
    neighbours: list[list[int]] = [[] for _ in range(num_nodes)]
    for source, target in edge_index.T.tolist():
        neighbours[target].append(source)
    # Refine: hash each node's colour with its neighbours' colours.
    colours = [1] * num_nodes
    for _ in range(rounds):
        texts = [
            '_'.join([str(own), *sorted(str(colours[j]) for j in around)])
            for own, around in zip(colours, neighbours, strict=True)
        ]
        # A colour is the rank of its digest; another hash function would permute the colours.
        digests = [hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() for text in texts]
        rank = {digest: number for number, digest in enumerate(sorted(set(digests)), 1)}
        refined = [rank[digest] for digest in digests]
        if refined == colours:
            break
        colours = refined
    return torch.tensor(colours, dtype=torch.long)
