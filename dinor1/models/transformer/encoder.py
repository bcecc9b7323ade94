"""Encoder: image features and prompts refine each other.

Grounding DINO's encoder (Liu et al., arXiv 2303.05499, section 3.2) as implemented in MMDetection, for any
number of visual or text prompts.
"""

from collections.abc import Sequence

from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN
from mmdet.models.layers.transformer.deformable_detr_layers import DeformableDetrTransformerEncoderLayer
from mmdet.models.layers.transformer.detr_layers import DetrTransformerEncoderLayer
from mmdet.models.layers.transformer.utils import get_text_sine_pos_embed
from mmengine.model import BaseModule, ModuleList
from torch import Tensor

from dinor1.registry import MODELS
from dinor1.structures import EncoderOutput, ImageFeatures, PromptBatch
from dinor1.utils.precision import at_least_float32

from .attention import BatchFirstMultiheadAttention
from .deformable_attention import MSDeformAttention
from .dims import TransformerDims
from .fusion import PromptFusionBlock
from .image_tokens import reference_points


class ImageEncoderLayer(DeformableDetrTransformerEncoderLayer):
    """Deformable self-attention of image tokens, FFN; a norm after each. MMDetection's layer with our operator."""

    def _init_layers(self) -> None:
        self.self_attn = MSDeformAttention(**self.self_attn_cfg)
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**self.ffn_cfg)
        self.norms = ModuleList(build_norm_layer(self.norm_cfg, self.embed_dims)[1] for _ in range(2))


class PromptEncoderLayer(DetrTransformerEncoderLayer):
    """Self-attention of prompts, FFN; a norm after each. MMDetection's layer with our attention module."""

    def _init_layers(self) -> None:
        self.self_attn = BatchFirstMultiheadAttention(**self.self_attn_cfg)
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**self.ffn_cfg)
        self.norms = ModuleList(build_norm_layer(self.norm_cfg, self.embed_dims)[1] for _ in range(2))


@MODELS.register_module()
class PromptedEncoder(BaseModule):
    """Layers of {image-prompt fusion, prompt self-attention, deformable image self-attention}.

    Parameter names are those of MMDetection's ``GroundingDinoTransformerEncoder``. In contrast to that module, the
    images of a batch may have different prompts: the self-attention masks have the order (image, head) that
    ``nn.MultiheadAttention`` expects, and padded prompts are masked in the fusion too. The position encoding of the
    prompts has width ``embed_dims`` instead of 256, and the norms of the fusion have the type of the other norms.

    Args:
        dims: Sizes of the transformer, the same as for the decoder.
        num_layers: Number of layers.
        fusion: Arguments of :class:`~dinor1.models.transformer.fusion.PromptFusionBlock`.
    """

    def __init__(
        self, dims: TransformerDims, num_layers: int = 6, fusion: dict | None = None, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.embed_dims, self.num_layers = dims.embed_dims, num_layers
        # Build the parts of all layers.
        self.num_prompt_heads = dims.num_heads // 2
        fusion = dict(num_heads=self.num_prompt_heads, norm_cfg=dims.norm_cfg) | (fusion or {})
        self.layers = ModuleList(
            ImageEncoderLayer(dims.deformable_attention(), dims.ffn(), dict(dims.norm_cfg)) for _ in range(num_layers)
        )
        self.text_layers = ModuleList(
            PromptEncoderLayer(
                dims.attention(self.num_prompt_heads), dims.ffn(4 * dims.embed_dims), dict(dims.norm_cfg)
            )
            for _ in range(num_layers)
        )
        self.fusion_layers = ModuleList(PromptFusionBlock(dims.embed_dims, **fusion) for _ in range(num_layers))

    def forward(
        self,
        features: ImageFeatures,
        prompts: PromptBatch,
        tokens: Tensor | None = None,
        gates: Sequence[Tensor] = (),
    ) -> EncoderOutput:
        """Encode.

        Args:
            features: Features of the batch.
            prompts: Prompts of the batch.
            tokens: (bs, N) distinct token indices. If given, the last deformable attention and FFN run for these
                tokens only, and ``memory`` is final at these tokens; at other tokens it is the input of that layer.
            gates: Empty: this encoder has no gates.
        """
        # Encode the positions of tokens and prompts.
        points = reference_points(features)
        memory, embeddings = features.feat, prompts.embeddings
        prompt_pos = get_text_sine_pos_embed(
            at_least_float32(prompts.position_ids()[..., None].to(memory.dtype)),
            num_pos_feats=self.embed_dims,
            exchange_xy=False,
        )
        # Mask prompts of other groups, (bs * heads, K, K) True = may not attend.
        forbidden = (~prompts.attention_mask()).repeat_interleave(self.num_prompt_heads, dim=0)
        # Run the layers: fusion, prompt self-attention, image self-attention.
        layers = zip(self.fusion_layers, self.text_layers, self.layers, strict=True)
        for fusion_layer, prompt_layer, image_layer in layers:
            memory, embeddings = fusion_layer(memory, embeddings, features.padding_mask, ~prompts.mask)
            embeddings = prompt_layer(
                query=embeddings, query_pos=prompt_pos, attn_mask=forbidden, key_padding_mask=None
            )
            if tokens is not None and image_layer is self.layers[-1]:
                memory = refine_at(tokens, image_layer, memory, points, features)
            else:
                memory = image_layer(
                    query=memory, query_pos=features.pos, reference_points=points, **image_arguments(features)
                )
        return EncoderOutput(memory, prompts._replace(embeddings=embeddings))


def image_arguments(features: ImageFeatures) -> dict:
    """Arguments of deformable attention that describe the image tokens."""
    return dict(
        spatial_shapes=features.spatial_shapes,
        level_start_index=features.level_start_index,
        key_padding_mask=features.padding_mask,
    )


def refine_at(
    tokens: Tensor, layer: ImageEncoderLayer, memory: Tensor, points: Tensor, features: ImageFeatures
) -> Tensor:
    """Apply ``layer`` to the tokens with indices ``tokens`` (bs, N), and leave the rest of ``memory`` as it is."""
    # Gather the tokens and their reference points.
    index = tokens[..., None].expand(-1, -1, memory.shape[-1])
    flat = points.flatten(2)
    own_points = flat.gather(1, tokens[..., None].expand(-1, -1, flat.shape[-1])).unflatten(2, points.shape[2:])
    # Apply attention, FFN and norms of the layer, and put the results back.
    query = layer.self_attn(
        query=memory.gather(1, index),
        query_pos=features.pos.gather(1, index),
        value=memory,
        reference_points=own_points,
        **image_arguments(features),
    )
    query = layer.norms[1](layer.ffn(layer.norms[0](query)))
    return memory.to(query.dtype).scatter(1, index, query)
