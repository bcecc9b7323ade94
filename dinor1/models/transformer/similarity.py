"""Similarity of queries or image tokens to prompts: the classification logits of the detector."""

import math

from mmdet.models.dense_heads.grounding_dino_head import ContrastiveEmbed
from torch import Tensor, nn


class PromptSimilarity(ContrastiveEmbed):
    """Logit <x, p> / sqrt(C) + b for any number of prompts; -inf where a prompt is not offered.

    Parameters are those of MMDetection's ``ContrastiveEmbed``, which always returns 256 columns. With ``query_map``, as
    in DETR-ViP (arXiv 2604.14684), the logit is <LN(W x), p> / sqrt(C) + b. At initial weights this is 16 cos + b if
    C = 256 and the prompts leave a layer norm too, however large the features are.

    Args:
        log_scale: ``auto``: divide by sqrt(C); a number: multiply by its exponential, which is learned; None: neither.
        bias: Add a learned bias, at first -log(99), a probability of 1 %.
        query_map: Width C of a linear map and a layer norm of the features before the product; None: no map.
    """

    def __init__(self, log_scale: float | str | None = 'auto', bias: bool = True, query_map: int | None = None) -> None:
        super().__init__(log_scale=log_scale, bias=bias)
        self.query_map: nn.Module | None = None
        if query_map is not None:
            linear = nn.Linear(query_map, query_map)
            nn.init.xavier_uniform_(linear.weight)
            self.query_map = nn.Sequential(linear, nn.LayerNorm(query_map))

    def forward(self, visual_feat: Tensor, prompts: Tensor, prompt_mask: Tensor) -> Tensor:
        """Compute logits: (bs, N, C) features, (bs, K, C) prompts, (bs, K) True = valid -> (bs, N, K)."""
        if self.query_map is not None:
            visual_feat = self.query_map(visual_feat)
        logits = visual_feat @ prompts.transpose(-1, -2)
        # Scale by a learned factor, or by the root of the width.
        if isinstance(self.log_scale, nn.Parameter):
            logits = logits * self.log_scale.exp()
        elif self.log_scale == 'auto':
            logits = logits / math.sqrt(visual_feat.shape[-1])
        if self.bias is not None:
            logits = logits + self.bias
        # Padding has probability 0.
        return logits.masked_fill(~prompt_mask[:, None], float('-inf'))


def selective_gate(logits: Tensor, prompt_valid: Tensor, theta: float) -> Tensor:
    """Gates of prompts: open if a token is similar to the prompt.

    Args:
        logits: (B, L, K) similarity of L tokens or queries to K prompts.
        prompt_valid: (B, K) True = the prompt is offered.
        theta: Probability in [0, 1] that the most similar token must exceed. 0: every offered prompt is open; 1: none.

    Returns:
        (B, 1, K) True = open, without gradient.
    """
    threshold = math.log(theta / (1 - theta)) if 0 < theta < 1 else math.copysign(math.inf, theta - 0.5)
    highest: Tensor = logits.detach().amax(1, keepdim=True)
    return (highest > threshold) & prompt_valid[:, None]
