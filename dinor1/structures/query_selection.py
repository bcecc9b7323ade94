"""The encoder tokens that become decoder queries."""

from typing import NamedTuple

from torch import Tensor


class QuerySelection(NamedTuple):
    """N tokens of each image, in descending order of objectness.

    Attributes:
        tokens: (bs, N) indices of encoder tokens.
        objectness: (bs, N) highest prompt logit of each token.
        cls_logits: (bs, N, K) prompt logits; -inf where a prompt is not offered.
        boxes: (bs, N, 4) normalised cxcywh in [0, 1].
    """

    tokens: Tensor
    objectness: Tensor
    cls_logits: Tensor
    boxes: Tensor
