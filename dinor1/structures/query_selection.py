"""The encoder tokens that decoder queries start from."""

from typing import NamedTuple

from torch import Tensor


class QuerySelection(NamedTuple):
    """N tokens of each image, in falling order of objectness.

    Attributes:
        tokens: (bs, N) indices.
        objectness: (bs, N) best prompt logit of each token.
        cls_logits: (bs, N, K) prompt logits.
        boxes: (bs, N, 4) normalised cxcywh in [0, 1].
    """

    tokens: Tensor
    objectness: Tensor
    cls_logits: Tensor
    boxes: Tensor
