"""Visual prompt encoder: a box on an image becomes one embedding.

DINO-R1, arXiv 2505.24025, section on visual prompting; the box-conditioned deformable attention is T-Rex2's
(arXiv 2403.14610).
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN, MultiheadAttention
from mmdet.models.layers.transformer.utils import MLP, coordinate_to_encoding
from mmengine.model import BaseModule
from torch import Tensor, nn

from dinor1.registry import MODELS

from ..transformer import MultiScaleDeformableAttention


@MODELS.register_module()
class VisualPromptEncoder(BaseModule):
    """One layer of {deformable cross-attention into the image, self-attention of a prompt to itself, FFN}.

    It reads the neck's features, before the encoder: an embedding depends on its image and box alone and can be
    stored in a bank.

    Args:
        embed_dims: Width C.
        num_heads: Heads of both attentions.
        num_levels: Feature levels.
        num_points: Sampling points per head and level.
        feedforward_channels: Hidden width of the FFN.
        norm_cfg: Normalisation after each sub-layer.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        feedforward_channels: int = 2048,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self.content_query = nn.Parameter(torch.empty(1, embed_dims))
        self.visual_bbox_encoding = MLP(2 * embed_dims, embed_dims, embed_dims, 2)
        self.cross_attn = MultiScaleDeformableAttention(
            embed_dims, num_heads, num_levels, num_points, dropout=0.0, batch_first=True
        )
        self.self_attn = MultiheadAttention(embed_dims, num_heads, batch_first=True)
        self.ffn = FFN(embed_dims, feedforward_channels, num_fcs=2, ffn_drop=0.0)
        norm_cfg = norm_cfg or dict(type='LN')
        self.norms = nn.ModuleList(build_norm_layer(norm_cfg, embed_dims)[1] for _ in range(3))

    def init_weights(self) -> None:
        """Xavier for the projections, as in the transformer; the content query is drawn like query embeddings."""
        super().init_weights()
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.cross_attn.init_weights()

    def forward(
        self,
        boxes: Tensor,
        feat: Tensor,
        feat_mask: Tensor | None,
        spatial_shapes: Tensor,
        level_start_index: Tensor,
        valid_ratios: Tensor,
    ) -> Tensor:
        """Encode the prompt boxes of a batch.

        Args:
            boxes: (bs, M, 4) cxcywh in [0, 1] of the un-padded images. Rows that pad an image with fewer boxes may
                hold anything finite: no row depends on another.
            feat: (bs, sum HW, C) neck features of the images that the boxes lie on.
            feat_mask: (bs, sum HW) True = padding, or None.
            spatial_shapes: (L, 2).
            level_start_index: (L,).
            valid_ratios: (bs, L, 2).

        Returns:
            (bs, M, C).
        """
        reference_points = boxes[:, :, None] * torch.cat([valid_ratios, valid_ratios], -1)[:, None]
        encoding = coordinate_to_encoding(reference_points[:, :, 0], num_feats=self.embed_dims // 2)
        query = self.content_query.expand(*boxes.shape[:2], -1)
        query = self.cross_attn(
            query,
            value=feat,
            query_pos=self.visual_bbox_encoding(encoding.to(query.dtype)),
            key_padding_mask=feat_mask,
            reference_points=reference_points,
            spatial_shapes=spatial_shapes,
            level_start_index=level_start_index,
        )
        query = self.norms[1](query)
        query = self.norms[0](query + self._attend_to_itself(query))
        return self.norms[2](self.ffn(query))

    def _attend_to_itself(self, query: Tensor) -> Tensor:
        """Self-attention under an identity mask.

        A softmax over one key is 1, whatever query, key and position say: what remains is the value projection
        followed by the output projection, without an (M, M) mask.
        """
        attention = self.self_attn.attn
        weight = attention.in_proj_weight[2 * self.embed_dims :]
        value = F.linear(query, weight, attention.in_proj_bias[2 * self.embed_dims :])
        return attention.out_proj(value)
