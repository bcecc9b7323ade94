"""Bidirectional attention between image features and prompts.

Grounding DINO's feature enhancer (arXiv 2303.05499, section 3.2); the bi-attention block is GLIP's (arXiv 2112.03857).
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.drop import DropPath
from mmdet.models.utils.vlfuse_helper import BiMultiHeadAttention
from torch import Tensor, nn


class PromptBiAttention(BiMultiHeadAttention):
    """Image tokens attend to prompts and prompts to image tokens, through one pair of projections.

    Parameters are those of MMDetection's module, in which the mask of padded prompts has no effect (a fill value of
    -9e15 becomes True in a boolean mask, which adds one to every logit), so that image tokens attend to padding. This
    module masks the padding.
    """

    def forward(
        self,
        vision: Tensor,
        lang: Tensor,
        attention_mask_v: Tensor | None = None,
        attention_mask_l: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the updates of both sides.

        Args:
            vision: (bs, T, C) image tokens.
            lang: (bs, K, C) prompts.
            attention_mask_v: (bs, T) True = padding, or None.
            attention_mask_l: (bs, K) True = padding, or None.
            gate: (bs, 1, K) True = image tokens may attend to the prompt; None: to all that are not padding. The update
                of an image without such a prompt is 0. Prompts attend to the image in any case.

        Returns:
            (bs, T, C) and (bs, K, C).
        """
        # Project both sides.
        query, key = self._heads(self.v_proj(vision)), self._heads(self.l_proj(lang))
        value_v, value_l = self._heads(self.values_v_proj(vision)), self._heads(self.values_l_proj(lang))
        # Attend in both directions.
        dropout = self.dropout if self.training else 0.0
        keep = _keep(attention_mask_l)
        if gate is not None:
            is_open = gate[:, None] if keep is None else gate[:, None] & keep
            closed = ~is_open.any(-1, keepdim=True)
            # A softmax over no prompt would be NaN, and so would its gradient: attend to all, and discard the result.
            keep = is_open | closed
        from_prompts = F.scaled_dot_product_attention(query, key, value_l, keep, dropout)
        from_image = F.scaled_dot_product_attention(key, query, value_v, _keep(attention_mask_v), dropout)
        image_update = self.out_v_proj(from_prompts.transpose(1, 2).flatten(2))
        if gate is not None:
            image_update = image_update.masked_fill(closed[:, 0], 0.0)
        return image_update, self.out_l_proj(from_image.transpose(1, 2).flatten(2))

    def _heads(self, tensor: Tensor) -> Tensor:
        """Split the heads: (bs, N, heads * dim) -> (bs, heads, N, dim)."""
        return tensor.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)


def _keep(padding_mask: Tensor | None) -> Tensor | None:
    """Invert a mask: (bs, N) True = padding -> (bs, 1, 1, N) True = may be attended to."""
    return None if padding_mask is None else ~padding_mask[:, None, None]


class PromptFusionBlock(nn.Module):
    """Pre-norm, :class:`PromptBiAttention`, layer scale, residual. Parameter names are MMDetection's.

    Args:
        width: Width C of image features and prompts.
        embed_dims: Width inside the attention. Default: 4 C.
        num_heads: Number of attention heads.
        dropout: Dropout probability of the attention weights, in training.
        drop_path: Probability that the update of an image is skipped in training (stochastic depth).
        init_values: Initial layer scale.
        norm_cfg: Config of the norms before the attention, one for each side. Default: LayerNorm.
    """

    def __init__(
        self,
        width: int,
        embed_dims: int | None = None,
        num_heads: int = 4,
        dropout: float = 0.1,
        drop_path: float = 0.0,
        init_values: float = 1e-4,
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        norm_cfg = norm_cfg or dict(type='LN')
        self.layer_norm_v = build_norm_layer(norm_cfg, width)[1]
        self.layer_norm_l = build_norm_layer(norm_cfg, width)[1]
        self.attn = PromptBiAttention(width, width, embed_dims or 4 * width, num_heads, dropout)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        # Small initial factors let the layer start close to the identity.
        self.gamma_v = nn.Parameter(torch.full((width,), init_values))
        self.gamma_l = nn.Parameter(torch.full((width,), init_values))

    def forward(
        self,
        feat: Tensor,
        prompts: Tensor,
        feat_padding: Tensor | None = None,
        prompt_padding: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Let both sides attend to each other.

        Args:
            feat: (bs, T, C) image tokens.
            prompts: (bs, K, C).
            feat_padding: (bs, T) True = padding, or None.
            prompt_padding: (bs, K) True = padding, or None.
            gate: (bs, 1, K) True = image tokens may attend to the prompt, see :class:`PromptBiAttention`.

        Returns:
            (bs, T, C) and (bs, K, C).
        """
        # Compute the update of each side from normalised inputs.
        feat, prompts = self.layer_norm_v(feat), self.layer_norm_l(prompts)
        feat_update, prompt_update = self.attn(feat, prompts, feat_padding, prompt_padding, gate)
        # Add the updates to the normalised inputs, as in GLIP's code.
        feat = feat + self.drop_path(self.gamma_v * feat_update)
        prompts = prompts + self.drop_path(self.gamma_l * prompt_update)
        return feat, prompts
