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
from dinor1.structures import ImageFeatures

from ..transformer.deformable_attention import MSDeformAttention
from ..transformer.dims import TransformerDims


@MODELS.register_module()
class VisualPromptEncoder(BaseModule):
    """One layer of {deformable cross-attention into the image, self-attention of a prompt to itself, FFN}.

    It reads the neck's features, before the encoder: an embedding depends on its image and box alone and can be
    stored in a bank.

    Args:
        dims: Sizes, as those of the transformer.
    """

    def __init__(self, dims: TransformerDims, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.embed_dims = dims.embed_dims
        self.content_query = nn.Parameter(torch.empty(1, dims.embed_dims))
        self.visual_bbox_encoding = MLP(2 * dims.embed_dims, dims.embed_dims, dims.embed_dims, 2)
        self.cross_attn = MSDeformAttention(**dims.deformable_attention())
        self.self_attn = MultiheadAttention(dims.embed_dims, dims.num_heads, batch_first=True)
        self.ffn = FFN(**dims.ffn())
        self.norms = nn.ModuleList(build_norm_layer(dims.norm_cfg, dims.embed_dims)[1] for _ in range(3))

    def init_weights(self) -> None:
        """Xavier for the projections, as in the transformer; the content query is drawn like query embeddings."""
        super().init_weights()
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.cross_attn.init_weights()

    def forward(self, boxes: Tensor, features: ImageFeatures) -> Tensor:
        """Encode the prompt boxes of a batch.

        Args:
            boxes: (bs, M, 4) cxcywh in [0, 1] of the un-padded images. Rows that pad an image with fewer boxes may
                hold anything finite: no row depends on another.
            features: Of the images that the boxes lie on, before the encoder.

        Returns:
            (bs, M, C).
        """
        # The box on every level of the padded feature maps, and as a position encoding.
        ratios = torch.cat([features.valid_ratios, features.valid_ratios], -1)
        reference_points = boxes[:, :, None] * ratios[:, None]
        encoding = coordinate_to_encoding(reference_points[:, :, 0], num_feats=self.embed_dims // 2)
        # Read the image around the box.
        query = self.content_query.expand(*boxes.shape[:2], -1)
        query = self.cross_attn(
            query,
            value=features.feat,
            query_pos=self.visual_bbox_encoding(encoding.to(query.dtype)),
            key_padding_mask=features.padding_mask,
            reference_points=reference_points,
            spatial_shapes=features.spatial_shapes,
            level_start_index=features.level_start_index,
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
