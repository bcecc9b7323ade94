"""Encoder: image features and prompts refine each other.

Grounding DINO's encoder (Liu et al., arXiv 2303.05499, section 3.2) as implemented in MMDetection, for prompts of any
kind, number and width.
"""

from mmdet.models.layers.transformer.grounding_dino_layers import GroundingDinoTransformerEncoder
from mmdet.models.layers.transformer.utils import get_text_sine_pos_embed
from mmengine.model import ModuleList
from torch import Tensor, nn

from dinor1.ops.ms_deform_attn.checks import LevelShapes, LevelStarts
from dinor1.structures import PromptBatch
from dinor1.utils.precision import at_least_float32

from .attention import MultiheadAttention
from .deformable_attention import MultiScaleDeformableAttention
from .fusion import PromptFusionBlock


class DINOR1TransformerEncoder(GroundingDinoTransformerEncoder):
    """Layers of {image-prompt fusion, prompt self-attention, deformable image self-attention}.

    Parameter names are MMDetection's. What keeps its images from having different prompts is put right: the
    self-attention masks are laid out in the order that ``nn.MultiheadAttention`` expects, (image, head), and padded
    prompts are masked in the fusion too. The width of the prompts' position encoding follows ``embed_dims`` instead
    of 256, and the fusion's norms are of the image layers' kind.
    """

    def _init_layers(self) -> None:
        super()._init_layers()
        for layer in self.layers:
            layer.self_attn = MultiScaleDeformableAttention(**layer.self_attn_cfg)
        for layer in self.text_layers:
            layer.self_attn = MultiheadAttention(**layer.self_attn_cfg)
        self.fusion_layers = ModuleList(
            PromptFusionBlock(**self.fusion_layer_cfg, norm_cfg=layer.norm_cfg) for layer in self.layers
        )

    def forward(
        self,
        feat: Tensor,
        feat_pos: Tensor,
        feat_mask: Tensor | None,
        spatial_shapes: LevelShapes,
        level_start_index: LevelStarts,
        valid_ratios: Tensor,
        prompts: PromptBatch,
        tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode.

        Args:
            feat: (bs, sum HW, C) image features.
            feat_pos: (bs, sum HW, C) their position encoding.
            feat_mask: (bs, sum HW) True = padding, or None.
            spatial_shapes: (L, 2) height and width of each level.
            level_start_index: (L,) first token of each level.
            valid_ratios: (bs, L, 2) un-padded share of width and height.
            prompts: Prompts of the batch.
            tokens: (bs, N) distinct tokens. With them the last deformable attention and FFN, which no other token
                depends on, run for these alone: memory is right there, and elsewhere what went into that layer.

        Returns:
            ``memory`` (bs, sum HW, C) and the refined prompts (bs, K, C).
        """
        reference_points = self.get_encoder_reference_points(spatial_shapes, valid_ratios, device=feat.device)
        memory, memory_prompts = feat, prompts.embeddings
        prompt_pos = get_text_sine_pos_embed(
            at_least_float32(prompts.position_ids()[..., None].to(feat.dtype)),
            num_pos_feats=self.embed_dims,
            exchange_xy=False,
        )
        num_heads = self.text_layers[0].self_attn_cfg.num_heads
        forbidden = (~prompts.attention_mask()).repeat_interleave(num_heads, dim=0)
        layers = zip(self.fusion_layers, self.text_layers, self.layers, strict=True)
        for fusion_layer, prompt_layer, image_layer in layers:
            memory, memory_prompts = fusion_layer(
                visual_feature=memory,
                lang_feature=memory_prompts,
                attention_mask_v=feat_mask,
                attention_mask_l=~prompts.mask,
            )
            memory_prompts = prompt_layer(
                query=memory_prompts, query_pos=prompt_pos, attn_mask=forbidden, key_padding_mask=None
            )
            image_args = dict(
                spatial_shapes=spatial_shapes, level_start_index=level_start_index, key_padding_mask=feat_mask
            )
            if tokens is not None and image_layer is self.layers[-1]:
                memory = _refine_at(tokens, image_layer, memory, feat_pos, reference_points, **image_args)
            else:
                memory = image_layer(query=memory, query_pos=feat_pos, reference_points=reference_points, **image_args)
        return memory, memory_prompts


def _refine_at(
    tokens: Tensor, layer: nn.Module, memory: Tensor, feat_pos: Tensor, reference_points: Tensor, **image_args
) -> Tensor:
    """``memory`` with ``layer`` applied at ``tokens`` (bs, N): what MMDetection's layer does, with fewer queries."""
    index = tokens[..., None].expand(-1, -1, memory.shape[-1])
    points = reference_points.flatten(2).gather(1, tokens[..., None].expand(-1, -1, reference_points[0, 0].numel()))
    query = layer.self_attn(
        query=memory.gather(1, index),
        query_pos=feat_pos.gather(1, index),
        value=memory,
        reference_points=points.unflatten(2, reference_points.shape[2:]),
        **image_args,
    )
    query = layer.norms[1](layer.ffn(layer.norms[0](query)))
    return memory.to(query.dtype).scatter(1, index, query)
