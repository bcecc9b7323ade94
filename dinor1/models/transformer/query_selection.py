"""Visual-guided query selection: the encoder tokens that match the prompts best become decoder queries.

DINO-R1, arXiv 2505.24025, after the language-guided query selection of Grounding DINO, arXiv 2303.05499, section 3.2.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from dinor1.structures import ImageFeatures, PromptBatch, QuerySelection
from dinor1.utils.precision import at_least_float32, full_precision

from .image_tokens import token_proposals


class TokenScores(NamedTuple):
    """Output of the head's encoder stage for all tokens.

    Attributes:
        logits: (bs, T, K) prompt logits; -inf where a prompt is not offered.
        feat: (bs, T, C) token features that logits and boxes are computed from.
        proposals: (bs, T, 4) logits of normalised cxcywh, +inf where unusable.
    """

    logits: Tensor
    feat: Tensor
    proposals: Tensor

    @property
    def objectness(self) -> Tensor:
        """(bs, T) highest prompt logit of each token."""
        return self.logits.amax(-1)


def score_tokens(
    memory: Tensor,
    features: ImageFeatures,
    prompts: PromptBatch,
    project: Callable[[Tensor], Tensor],
    cls_branch: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> TokenScores:
    """Score every encoder token against the prompts, in single precision.

    Args:
        memory: (bs, T, C) image tokens after the encoder.
        features: Shapes and padding of the image tokens.
        prompts: The prompts after the encoder.
        project: Function that maps memory to token features (bs, T, C): a linear map and a norm.
        cls_branch: Similarity of the encoder stage, (bs, T, C), (bs, K, C), (bs, K) -> (bs, T, K).
    """
    with full_precision(memory.device):
        proposals, usable = token_proposals(features)
        feat = project(at_least_float32(memory).masked_fill(~usable, 0.0))
        logits = cls_branch(feat, at_least_float32(prompts.embeddings), prompts.mask)
    return TokenScores(logits, feat, proposals)


def select_queries(scores: TokenScores, reg_branch: Callable[[Tensor], Tensor], num_queries: int) -> QuerySelection:
    """Select the tokens with the highest objectness, in descending order.

    Args:
        scores: Scores of all tokens.
        reg_branch: Box head of the encoder stage, (bs, N, C) -> (bs, N, 4).
        num_queries: Number N of tokens to select; all tokens if there are fewer.
    """
    # Find the tokens.
    objectness, tokens = scores.objectness.topk(min(num_queries, scores.logits.shape[1]), dim=1)

    def take(tensor: Tensor) -> Tensor:
        return tensor.gather(1, tokens[..., None].expand(-1, -1, tensor.shape[-1]))

    # Predict their boxes.
    with full_precision(objectness.device):
        boxes = (reg_branch(take(scores.feat)) + take(scores.proposals)).sigmoid()
    return QuerySelection(tokens, objectness, take(scores.logits), boxes)
