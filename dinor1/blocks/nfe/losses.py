"""Loss over all entities, computed in pieces that fit into the cache.

Binary logistic loss of every entity with the tail of the triple as the one positive, summed over entities and averaged
over the batch, as in the release of NFE (Xiao, He and Cao, arXiv 2409.19977)::

    L = mean over b of [ sum over e of softplus(s_be)  -  sum over the positive e of s_be ]

because ``softplus(-s) = softplus(s) - s``. The first sum is over batch x entities scores, of which autograd would store
several arrays. Here the scores and their gradient are computed piece by piece.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .kinds import Features

# Scores per piece: 4 MB in float32, so that the passes over them stay in the cache.
PIECE = 2**20


def logistic_loss(
    query: Features,
    key: Features,
    rows: Tensor,
    positive: Features,
    *,
    weight: float = 1.0,
    counted: Tensor | None = None,
    piece: int = PIECE,
) -> Tensor:
    """Binary logistic loss of many entities per query.

    With a uniform sample of M of the N entities as ``key``, ``weight = N / M`` makes the loss and its gradient unbiased
    estimates of those with all; positives are always included.

    Args:
        query: ``(B, K)`` and ``(B,)``.
        key: ``(M, K)`` and ``(M,)``: all entities, or a sample of them.
        rows: ``(P,)`` int64, the query of each positive; a query may have several.
        positive: ``(P, K)`` and ``(P,)``, the positives' side of the score.
        weight: Weight of the sum over ``key``.
        counted: ``(P,)`` bool, which positives are among ``key``; ``None`` = all of them.
        piece: Number of scores that are in memory together.

    Returns:
        A scalar, differentiable once.
    """
    # Score the positives.
    scores = (query.vector[rows] * positive.vector).sum(-1) + query.bias[rows] + positive.bias
    gain = scores.sum()
    if counted is not None:
        # A positive has weight 1: subtract what the sum over ``key`` contains of it (0 if it was not drawn).
        gain = gain - ((1 - weight * counted) * softplus(scores)).sum()
    return (weight * softplus_sum(query, key, piece) - gain) / len(query.vector)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), without the approximation x of :func:`torch.nn.functional.softplus` (an error of 2e-9 at 20)."""
    return -F.logsigmoid(-x)


def softplus_sum(query: Features, key: Features, piece: int = PIECE) -> Tensor:
    """Sum of softplus(score) over all pairs of a query and a key, without storing all scores.

    Args:
        query: ``(B, K)`` and ``(B,)``.
        key: ``(M, K)`` and ``(M,)``.
        piece: Number of scores that are in memory together.

    Returns:
        A scalar, differentiable once.
    """
    return _SoftplusSum.apply(*query, *key, piece)


class _SoftplusSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query: Tensor, query_bias: Tensor, key: Tensor, key_bias: Tensor, piece: int) -> Tensor:
        inputs = (query, query_bias, key, key_bias)
        # The gradient of softplus is the sigmoid of the score, which exists only now: compute it here, scale it later.
        grads = [torch.zeros_like(x) for x in inputs] if any(ctx.needs_input_grad) else None
        total = query.new_zeros(())
        # Sum piece by piece, and accumulate the gradient of each input.
        step = max(1, piece // max(1, len(query)))
        for start in range(0, len(key), step):
            part = slice(start, start + step)
            scores = torch.addmm(key_bias[part], query, key[part].T).add_(query_bias[:, None])
            total += softplus(scores).sum()
            if grads is not None:
                slope = scores.sigmoid_()
                grads[0].addmm_(slope, key[part])
                grads[1] += slope.sum(1)
                torch.mm(slope.T, query, out=grads[2][part])
                torch.sum(slope, 0, out=grads[3][part])
        if grads is not None:
            ctx.save_for_backward(*grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return *(grad * x for x in ctx.saved_tensors), None
