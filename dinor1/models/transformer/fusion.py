"""Bi-directional attention between image features and prompts.

Grounding DINO's feature enhancer (arXiv 2303.05499, section 3.2); the bi-attention block is GLIP's (arXiv 2112.03857).
"""

from typing import Any

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmdet.models.utils.vlfuse_helper import BiMultiHeadAttention, SingleScaleBiAttentionBlock
from torch import Tensor


class PromptBiAttention(BiMultiHeadAttention):
    """Image tokens attend to prompts and prompts to image tokens, through one pair of projections.

    MMDetection's module with the same parameters. Its mask of padded prompts has no effect (a fill value of -9e15
    becomes True in a boolean mask, and adds one to every logit), so that padding reaches the image; here it does not.
    """

    def forward(
        self,
        vision: Tensor,
        lang: Tensor,
        attention_mask_v: Tensor | None = None,
        attention_mask_l: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Updates for both sides.

        Args:
            vision: (bs, T, C) image tokens.
            lang: (bs, K, C) prompts.
            attention_mask_v: (bs, T) True = padding, or None.
            attention_mask_l: (bs, K) True = padding, or None.

        Returns:
            (bs, T, C) and (bs, K, C).
        """
        query, key = self._heads(self.v_proj(vision)), self._heads(self.l_proj(lang))
        value_v, value_l = self._heads(self.values_v_proj(vision)), self._heads(self.values_l_proj(lang))
        dropout = self.dropout if self.training else 0.0
        from_prompts = F.scaled_dot_product_attention(query, key, value_l, _keep(attention_mask_l), dropout)
        from_image = F.scaled_dot_product_attention(key, query, value_v, _keep(attention_mask_v), dropout)
        return (
            self.out_v_proj(from_prompts.transpose(1, 2).flatten(2)),
            self.out_l_proj(from_image.transpose(1, 2).flatten(2)),
        )

    def _heads(self, tensor: Tensor) -> Tensor:
        """(bs, N, heads * dim) -> (bs, heads, N, dim)."""
        return tensor.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


def _keep(padding_mask: Tensor | None) -> Tensor | None:
    """(bs, N) True = padding -> (bs, 1, 1, N) True = may be attended to."""
    return None if padding_mask is None else ~padding_mask[:, None, None]


class PromptFusionBlock(SingleScaleBiAttentionBlock):
    """Pre-norm, :class:`PromptBiAttention`, layer scale; ``norm_cfg`` beside the arguments of MMDetection's block."""

    def __init__(
        self,
        v_dim: int,
        l_dim: int,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.1,
        norm_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(v_dim, l_dim, embed_dim, num_heads, dropout, **kwargs)
        self.attn = PromptBiAttention(v_dim, l_dim, embed_dim, num_heads, dropout)
        norm_cfg = norm_cfg or dict(type='LN')
        self.layer_norm_v = build_norm_layer(norm_cfg, v_dim)[1]
        self.layer_norm_l = build_norm_layer(norm_cfg, l_dim)[1]
