"""Decoder: selected queries attend to prompts and image features, and refine their boxes layer by layer.

DINO's decoder with look-forward-twice (Zhang et al., arXiv 2203.03605, section 3.5) and Grounding DINO's
cross-attention to the prompts (arXiv 2303.05499, section 3.3).
"""

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN
from mmdet.models.layers import inverse_sigmoid
from mmdet.models.layers.transformer.utils import MLP, coordinate_to_encoding
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.structures import ImageFeatures, PromptBatch
from dinor1.utils.errors import InputError
from dinor1.utils.precision import at_least_float32, full_precision

from .attention import BatchFirstMultiheadAttention
from .deformable_attention import MSDeformAttention
from .dims import TransformerDims
from .selective_encoder import check_fusion
from .similarity import selective_gate


class PromptedDecoderLayer(BaseModule):
    """Query self-attention, query-to-prompt attention, deformable image attention, FFN; a norm after each.

    With ``cross_first``, the self-attention comes after the two others, as in MS-DETR (arXiv 2401.03989).

    Parameter names are those of MMDetection's ``GroundingDinoTransformerDecoderLayer``. Prompts have no position.

    Args:
        dims: Sizes of the transformer.
        prompt_attention: Whether queries attend to prompts; False: there is no such attention, and no norm after it.
        cross_first: Whether queries attend to prompts and image before they attend to each other.
    """

    def __init__(
        self,
        dims: TransformerDims,
        prompt_attention: bool = True,
        cross_first: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.prompt_attention, self.cross_first = prompt_attention, cross_first
        self.self_attn = BatchFirstMultiheadAttention(**dims.attention())
        if prompt_attention:
            self.cross_attn_text = BatchFirstMultiheadAttention(**dims.attention())
        self.cross_attn = MSDeformAttention(**dims.deformable_attention())
        self.ffn = FFN(**dims.ffn())
        self.norms = ModuleList(build_norm_layer(dims.norm_cfg, dims.embed_dims)[1] for _ in range(4))
        # Without the attention to prompts, its norm is left out; the others keep their index in checkpoints.
        if not prompt_attention:
            self.norms[1] = nn.Identity()

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        features: ImageFeatures,
        prompts: PromptBatch,
        self_attn_mask: Tensor | None,
        gate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            query: (bs, Q, C) content.
            query_pos: (bs, Q, C) position encoding of the boxes.
            reference_points: (bs, Q, L, 4) cxcywh in [0, 1] of the padded feature maps.
            memory: (bs, T, C) image tokens after the encoder.
            features: Shapes and padding of the image tokens.
            prompts: The prompts after the encoder.
            self_attn_mask: (Q, Q) True = may not attend, or None.
            gate: (bs, 1, K) True = queries may attend to the prompt; None: to all that are offered. The queries of an
                image without such a prompt skip this attention and its norm.

        Returns:
            Output (bs, Q, C) of the layer, and (bs, Q, C) of its attention to the image.
        """

        def attend_to_queries(query: Tensor) -> Tensor:
            attended = self.self_attn(query, query_pos=query_pos, key_pos=query_pos, attn_mask=self_attn_mask)
            normed: Tensor = self.norms[0](attended)
            return normed

        # Queries attend to each other,
        if not self.cross_first:
            query = attend_to_queries(query)
        # to the prompts,
        if self.prompt_attention:
            query = self._attend_to_prompts(query, query_pos, prompts, gate)
        # and to the image around their boxes.
        query = self.cross_attn(
            query,
            value=memory,
            query_pos=query_pos,
            key_padding_mask=features.padding_mask,
            reference_points=reference_points,
            spatial_shapes=features.spatial_shapes,
            level_start_index=features.level_start_index,
        )
        query = branch = self.norms[2](query)
        # With the other order, they attend to each other last.
        if self.cross_first:
            query = attend_to_queries(query)
        return self.norms[3](self.ffn(query)), branch

    def _attend_to_prompts(self, query: Tensor, query_pos: Tensor, prompts: PromptBatch, gate: Tensor | None) -> Tensor:
        """Attention of the queries (bs, Q, C) to the prompts with an open gate, and the norm after it."""
        hidden = ~prompts.mask
        if gate is not None:
            is_open = prompts.mask & gate[:, 0]
            closed = ~is_open.any(-1, keepdim=True)
            # A softmax over no prompt would be NaN, and so would its gradient: attend to all, and discard the result.
            hidden = ~(is_open | closed)
        attended: Tensor = self.cross_attn_text(
            query, prompts.embeddings, prompts.embeddings, query_pos=query_pos, key_padding_mask=hidden
        )
        attended = self.norms[1](attended)
        return attended if gate is None else torch.where(closed[..., None], query, attended)


@MODELS.register_module()
class PromptedDecoder(BaseModule):
    """Layers of {query self-attention, query-to-prompt attention, deformable image attention, FFN}.

    Parameter names are those of MMDetection's ``GroundingDinoTransformerDecoder``. The width of the coordinate encoding
    follows ``embed_dims``, whereas MMDetection fixes it at 128 values per coordinate. The final norm has the type of
    the layers' norms, whereas MMDetection always uses a LayerNorm.

    Args:
        dims: Sizes of the transformer, the same as for the encoder.
        num_layers: Number of layers.
        decoder_fusion: ``full``: queries attend to all prompts that are offered. ``selective``: only to those that a
            selected token is similar to, as in DETR-ViP (arXiv 2604.14684); the gates have no gradient and no
            parameters. ``none``: queries do not attend to prompts.
        fusion_threshold: Probability in [0, 1] that the most similar token must exceed to open a gate.
        layer_order: ``self_first``: the order above. ``cross_first``: attention to prompts and image, then
            self-attention, so that queries can be supervised one to many before they see each other, as in MS-DETR
            (arXiv 2401.03989).

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        dims: TransformerDims,
        num_layers: int = 6,
        decoder_fusion: str = 'full',
        fusion_threshold: float = 0.1,
        layer_order: str = 'self_first',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        # Check the arguments.
        if layer_order not in ('self_first', 'cross_first'):
            raise InputError(f"model.decoder.layer_order must be 'self_first' or 'cross_first', got {layer_order!r}")
        self.cross_first = layer_order == 'cross_first'
        check_fusion('model.decoder.decoder_fusion', decoder_fusion, fusion_threshold)
        self.embed_dims, self.num_layers = dims.embed_dims, num_layers
        self.decoder_fusion, self.fusion_threshold = decoder_fusion, fusion_threshold
        # Build the layers, and the map from the code of a reference box to the position of its query.
        self.layers = ModuleList(
            PromptedDecoderLayer(dims, decoder_fusion != 'none', self.cross_first) for _ in range(num_layers)
        )
        self.ref_point_head = MLP(2 * self.embed_dims, self.embed_dims, self.embed_dims, 2)
        self.norm = build_norm_layer(dims.norm_cfg, self.embed_dims)[1]

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        features: ImageFeatures,
        prompts: PromptBatch,
        reg_branches: nn.ModuleList,
        token_logits: Tensor,
        self_attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Decode.

        Args:
            query: (bs, Q, C) content; denoising queries first.
            reference_points: (bs, Q, 4) normalised cxcywh.
            memory: (bs, T, C) image tokens after the encoder.
            features: Shapes and padding of the image tokens.
            prompts: The prompts after the encoder.
            reg_branches: One box head per layer; further ones are ignored.
            token_logits: (bs, N, K) prompt logits of the selected tokens, from which ``selective`` computes its gates,
                once for all layers; not used otherwise.
            self_attn_mask: (Q, Q) True = may not attend, or None.

        Returns:
            Hidden states (num_layers, bs, Q, C) after the final norm, and references (1 + num_layers, bs, Q, 4):
            ``reference_points``, then the boxes refined by each layer. With ``layer_order='cross_first'`` also the
            states (num_layers, bs, Q, C) before the self-attention of each layer, after the final norm; None otherwise.
        """
        # Decide which prompts the queries may attend to.
        gate = None
        if self.decoder_fusion == 'selective':
            gate = selective_gate(token_logits, prompts.mask, self.fusion_threshold)
        # Run the layers.
        scale = torch.cat([features.valid_ratios, features.valid_ratios], -1)[:, None]
        hidden_states, branch_states, references = [], [], [reference_points]
        for layer, reg_branch in zip(self.layers, reg_branches, strict=False):
            # Scale the box of each query to every level, and encode its position.
            level_references = reference_points[:, :, None] * scale
            encoding = coordinate_to_encoding(level_references[:, :, 0], num_feats=self.embed_dims // 2)
            # Update the content of the queries.
            query, branch = layer(
                query, self.ref_point_head(encoding), level_references, memory, features, prompts, self_attn_mask, gate
            )
            # Refine the boxes in single precision.
            with full_precision(query.device):
                step = reg_branch(at_least_float32(query))
                refined = (step + inverse_sigmoid(reference_points, eps=1e-3)).sigmoid()
            hidden_states.append(self.norm(query))
            if self.cross_first:
                branch_states.append(self.norm(branch))
            # Keep the boxes with gradient: the loss of the next layer reaches this refinement ("look forward twice").
            references.append(refined)
            reference_points = refined.detach()
        branches = torch.stack(branch_states) if branch_states else None
        return torch.stack(hidden_states), torch.stack(references), branches
