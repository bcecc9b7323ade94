"""Attention of every node to its neighbours, over a list of edges.

Dwivedi and Bresson, *A Generalization of Transformer Networks to Graphs*, arXiv 2012.09699. The paper and the released
code differ in two details; this module follows the code:

- the *logits* are clamped, not their exponentials;
- with edge features each edge and head has a vector, whose sum is the logit; the vector, before sum and clamp, is the
  new value of the edge features.

The clamp bounds the exponentials, so that no maximum per node has to be subtracted. Everything is gather and
``index_add``: it runs on any device, is twice differentiable, and has no further dependency.
"""

from torch import Tensor

from dinor1.utils.precision import compute_dtype


def graph_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    edge_index: Tensor,
    *,
    edge: Tensor | None = None,
    edge_weight: Tensor | None = None,
    clamp: float = 5.0,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Weighted mean of the neighbours' values.

    Args:
        query: ``(N, H, dk)``.
        key: ``(N, H, dk)``.
        value: ``(N, H, dk)``.
        edge_index: ``(2, E)`` int64: row 0 the sources, row 1 the destinations. A node attends to its sources.
        edge: ``(E, H, dk)``, multiplies the products of query and key.
        edge_weight: ``(E,)``, at least 0, multiplies the exponentials: 0 removes the edge, 1 leaves it unchanged. This
            is not in the paper.
        clamp: Logits are clamped to [-clamp, clamp]; the gradient is 0 outside.
        eps: Added to the sum of the weights of a node.

    Returns:
        ``(N, H, dk)`` means, 0 for a node without incoming edges; and ``(E, H, dk)``, the vector of each edge, whose
        sum over dk is the logit. Sums are in float32 at least.
    """
    # Compute the logits of all edges.
    (num_nodes, heads, width), (source, target) = query.shape, edge_index
    # index_select, because the backward pass of plain indexing is slower.
    product = query.index_select(0, target) * key.index_select(0, source) * width**-0.5
    if edge is not None:
        product = product * edge
    logit = product.sum(-1)
    # Exponentiate in float32 at least: float16 overflows at e^5 times a few hundred neighbours.
    weight = logit.to(compute_dtype(logit)).clamp(-clamp, clamp).exp()
    if edge_weight is not None:
        weight = weight * edge_weight[:, None]
    # Sum weights and weighted values over the edges of each node.
    message = weight[..., None] * value.index_select(0, source)
    total = weight.new_zeros(num_nodes, heads).index_add(0, target, weight) + eps
    summed = message.new_zeros(num_nodes, heads, width).index_add(0, target, message)
    # Without incoming edges both sums are 0; dividing by 1 gives 0.
    mean = summed / total.masked_fill(total == 0, 1)[..., None]
    return mean.to(value.dtype), product
