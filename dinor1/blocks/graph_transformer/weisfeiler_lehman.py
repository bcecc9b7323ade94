"""Weisfeiler-Lehman codes, the encoding that the Laplacian one was compared with.

Dwivedi and Bresson, arXiv 2012.09699, after Zhang et al., *Graph-BERT*, arXiv 2001.05140. A code is the rank of a hash
among the hashes of one graph: the same code means different things in different graphs, and a large graph has more of
them than a table that was made for smaller ones. Use them as node types with an embedding.
"""

import hashlib

import torch
from torch import Tensor


def weisfeiler_lehman_codes(edge_index: Tensor, num_nodes: int, rounds: int = 1) -> Tensor:
    """Colours of the nodes after some rounds of refinement.

    Args:
        edge_index: ``(2, E)`` int64 of one graph; a node looks at its sources.
        num_nodes: N.
        rounds: At most; it ends early where nothing changes. The release computes two and uses the first.

    Returns:
        ``(N,)`` int64, from 1.
    """
    neighbours: list[list[int]] = [[] for _ in range(num_nodes)]
    for source, target in edge_index.T.tolist():
        neighbours[target].append(source)
    colours = [1] * num_nodes
    for _ in range(rounds):
        texts = [
            '_'.join([str(own), *sorted(str(colours[j]) for j in around)])
            for own, around in zip(colours, neighbours, strict=True)
        ]
        # The order of the digests gives the numbers, which another hash would permute.
        digests = [hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() for text in texts]
        rank = {digest: number for number, digest in enumerate(sorted(set(digests)), 1)}
        refined = [rank[digest] for digest in digests]
        if refined == colours:
            break
        colours = refined
    return torch.tensor(colours, dtype=torch.long)
