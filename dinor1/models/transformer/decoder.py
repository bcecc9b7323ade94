"""Decoder: selected queries read prompts and image, and refine their boxes layer by layer.

DINO's decoder with look-forward-twice (Zhang et al., arXiv 2203.03605, section 3.5) and Grounding DINO's
cross-attention to the prompts (arXiv 2303.05499, section 3.3).
"""

import torch
from mmcv.cnn import build_norm_layer
from mmdet.models.layers import inverse_sigmoid
from mmdet.models.layers.transformer.grounding_dino_layers import (
    GroundingDinoTransformerDecoder,
    GroundingDinoTransformerDecoderLayer,
)
from mmdet.models.layers.transformer.utils import coordinate_to_encoding
from mmengine.model import ModuleList
from torch import Tensor, nn

from dinor1.ops.ms_deform_attn.checks import LevelShapes, LevelStarts
from dinor1.structures import PromptBatch
from dinor1.utils.precision import at_least_float32, full_precision

from .attention import MultiheadAttention
from .deformable_attention import MultiScaleDeformableAttention


class DINOR1TransformerDecoderLayer(GroundingDinoTransformerDecoderLayer):
    """Query self-attention, query-to-prompt attention, deformable image attention, FFN; a norm after each.

    MMDetection's layer on this project's attention, in which prompts never get a position.
    """

    def _init_layers(self) -> None:
        super()._init_layers()
        self.self_attn = MultiheadAttention(**self.self_attn_cfg)
        self.cross_attn_text = MultiheadAttention(**self.cross_attn_text_cfg)
        self.cross_attn = MultiScaleDeformableAttention(**self.cross_attn_cfg)

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        memory: Tensor,
        memory_mask: Tensor | None,
        memory_prompts: Tensor,
        prompt_mask: Tensor,
        self_attn_mask: Tensor | None,
        reference_points: Tensor,
        spatial_shapes: LevelShapes,
        level_start_index: LevelStarts,
    ) -> Tensor:
        """One layer; arguments as in :class:`DINOR1TransformerDecoder`, ``reference_points`` (bs, Q, L, 4)."""
        query = self.norms[0](self.self_attn(query, query_pos=query_pos, key_pos=query_pos, attn_mask=self_attn_mask))
        query = self.norms[1](
            self.cross_attn_text(
                query,
                memory_prompts,
                memory_prompts,
                query_pos=query_pos,
                key_padding_mask=~prompt_mask,
            )
        )
        query = self.norms[2](
            self.cross_attn(
                query,
                value=memory,
                query_pos=query_pos,
                key_padding_mask=memory_mask,
                reference_points=reference_points,
                spatial_shapes=spatial_shapes,
                level_start_index=level_start_index,
            )
        )
        return self.norms[3](self.ffn(query))


class DINOR1TransformerDecoder(GroundingDinoTransformerDecoder):
    """Layers of {query self-attention, query-to-prompt attention, deformable image attention, FFN}.

    Parameter names are MMDetection's. The width of the coordinate encoding follows ``embed_dims`` here; MMDetection
    fixes it at 128 values per coordinate (and some of its releases changed it without need). The final norm is of the
    layers' kind instead of always a LayerNorm.
    """

    def _init_layers(self) -> None:
        super()._init_layers()
        self.layers = ModuleList(DINOR1TransformerDecoderLayer(**self.layer_cfg) for _ in range(self.num_layers))
        self.norm = build_norm_layer(self.layers[0].norm_cfg, self.embed_dims)[1]

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        self_attn_mask: Tensor | None,
        memory: Tensor,
        memory_mask: Tensor | None,
        memory_prompts: Tensor,
        prompts: PromptBatch,
        spatial_shapes: LevelShapes,
        level_start_index: LevelStarts,
        valid_ratios: Tensor,
        reg_branches: nn.ModuleList,
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            query: (bs, num_queries, C) content; denoising queries first.
            reference_points: (bs, num_queries, 4) normalised cxcywh.
            self_attn_mask: (num_queries, num_queries) True = may not attend, or None.
            memory: (bs, sum HW, C).
            memory_mask: (bs, sum HW) True = padding, or None.
            memory_prompts: (bs, K, C) prompts refined by the encoder.
            prompts: Which of them are valid.
            spatial_shapes: (height, width) of each level, (L, 2).
            level_start_index: First token of each level, (L,).
            valid_ratios: (bs, L, 2).
            reg_branches: One box head per layer.

        Returns:
            hidden states (num_layers, bs, num_queries, C) after the final norm, and references
            (1 + num_layers, bs, num_queries, 4), the first being ``reference_points``.
        """
        scale = torch.cat([valid_ratios, valid_ratios], -1)[:, None]
        hidden_states, references = [], [reference_points]
        for layer, reg_branch in zip(self.layers, reg_branches, strict=False):
            level_references = reference_points[:, :, None] * scale
            encoding = coordinate_to_encoding(level_references[:, :, 0], num_feats=self.embed_dims // 2)
            query = layer(
                query,
                query_pos=self.ref_point_head(encoding),
                memory=memory,
                memory_mask=memory_mask,
                memory_prompts=memory_prompts,
                prompt_mask=prompts.mask,
                self_attn_mask=self_attn_mask,
                reference_points=level_references,
                spatial_shapes=spatial_shapes,
                level_start_index=level_start_index,
            )
            with full_precision(query.device):
                step = reg_branch(at_least_float32(query))
                refined = (step + inverse_sigmoid(reference_points, eps=1e-3)).sigmoid()
            hidden_states.append(self.norm(query))
            # The undetached box is kept: the next layer's loss reaches this layer's refinement through it.
            references.append(refined)
            reference_points = refined.detach()
        return torch.stack(hidden_states), torch.stack(references)
