"""Attention of every node to its neighbours, over a list of edges.

Dwivedi and Bresson, *A Generalization of Transformer Networks to Graphs*, arXiv 2012.09699. The text of the paper and
the released program differ in two places; this is the program:

- the *logits* are clamped, not their exponentials;
- with edge features the logit is the sum over a vector per edge and head, and that vector, before sum and clamp, is
  what the edge stream continues with.

The clamp bounds the exponentials, so that no maximum per node has to be found and subtracted. Everything is gather and
``index_add``: any device, differentiable twice, no further dependency.
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
        edge_weight: ``(E,)``, at least 0, multiplies the exponentials: 0 is no edge, 1 leaves it as it is. This goes
            beyond the paper.
        clamp: Logits are cut to [-clamp, clamp]; their gradient is 0 outside.
        eps: Added to the sum of the weights of a node.

    Returns:
        ``(N, H, dk)``, 0 for a node without incoming edges; and the vector of each edge ``(E, H, dk)``, whose sum over
        dk is the logit. Sums are in float32 at least.
    """
    (num_nodes, heads, width), (source, target) = query.shape, edge_index
    # index_select, because the backward pass of plain indexing is slower.
    product = query.index_select(0, target) * key.index_select(0, source) * width**-0.5
    if edge is not None:
        product = product * edge
    logit = product.sum(-1)
    # e^5 times a few hundred neighbours is beyond what float16 holds.
    weight = logit.to(compute_dtype(logit)).clamp(-clamp, clamp).exp()
    if edge_weight is not None:
        weight = weight * edge_weight[:, None]
    message = weight[..., None] * value.index_select(0, source)
    total = weight.new_zeros(num_nodes, heads).index_add(0, target, weight) + eps
    summed = message.new_zeros(num_nodes, heads, width).index_add(0, target, message)
    # Without incoming edges both sums are 0, and 0 / 1 is the answer.
    mean = summed / total.masked_fill(total == 0, 1)[..., None]
    return mean.to(value.dtype), product
