"""Prompt encoder that turns all exemplars of a class on an image into one embedding.

DETR-ViP (arXiv 2604.14684) and T-Rex2 (arXiv 2403.14610): an aggregator token with the box of the whole image attends
to the exemplars of its class.
"""

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN
from mmdet.models.layers.transformer.detr_layers import DetrTransformerDecoderLayer
from mmdet.models.layers.transformer.utils import MLP, coordinate_to_encoding
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.structures import ImageFeatures
from dinor1.utils.errors import InputError

from ..transformer.attention import BatchFirstMultiheadAttention
from ..transformer.deformable_attention import MSDeformAttention
from ..transformer.dims import TransformerDims
from .visual import check_source

_AGGREGATORS = ('class_token', 'mean', 'single')


class PromptLayer(DetrTransformerDecoderLayer):
    """Self-attention of prompt tokens, deformable attention into the image, FFN; a norm after each."""

    def _init_layers(self) -> None:
        self.self_attn = BatchFirstMultiheadAttention(**self.self_attn_cfg)
        self.cross_attn = MSDeformAttention(**self.cross_attn_cfg)
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**self.ffn_cfg)
        self.norms = ModuleList(build_norm_layer(self.norm_cfg, self.embed_dims)[1] for _ in range(3))


@MODELS.register_module()
class AggregatingPromptEncoder(BaseModule):
    """Layers of {self-attention, deformable cross-attention into the image, FFN} on prompt tokens.

    Every box is a token, and with ``class_token`` every group of boxes has one more, whose box is the whole image.
    Tokens of different groups do not attend to each other. A group is a class on an image, or a single box.

    Args:
        dims: Sizes of the transformer.
        aggregator: ``class_token``: the embedding of a group is that of its own token. ``mean``: there is no such
            token, boxes attend only to themselves, and the embedding is the mean over the boxes. ``single``: as
            ``mean``, but every box is a separate prompt, as in :class:`~dinor1.models.prompts.VisualPromptEncoder`.
        num_layers: Number of layers, at least 1.
        source: ``neck`` or ``encoder``: the features that the boxes are encoded from; see
            :func:`~dinor1.models.prompts.visual.check_source`.

    Attributes:
        aggregates: Whether several boxes become one embedding.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        dims: TransformerDims,
        aggregator: str = 'class_token',
        num_layers: int = 3,
        source: str = 'neck',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        # Check the settings.
        if aggregator not in _AGGREGATORS:
            choices = ' or '.join(repr(choice) for choice in _AGGREGATORS)
            raise InputError(f'model.prompts.encoder.aggregator must be {choices}, got {aggregator!r}')
        if num_layers < 1:
            raise InputError(f'model.prompts.encoder.num_layers must be at least 1, got {num_layers}')
        self.aggregator, self.source = aggregator, check_source(source)
        self.aggregates = aggregator != 'single'
        self.embed_dims, self.num_heads = dims.embed_dims, dims.num_heads
        # Build the tokens' content and position encoding, the layers, and the norm of the output.
        if aggregator == 'class_token':
            self.aggregator_content = nn.Parameter(torch.zeros(1, dims.embed_dims))
        self.exemplar_content = nn.Parameter(torch.zeros(1, dims.embed_dims))
        self.position_encoding = MLP(2 * dims.embed_dims, dims.embed_dims, dims.embed_dims, 2)
        self.layers = ModuleList(
            PromptLayer(dims.attention(), dims.deformable_attention(), dims.ffn(), dict(dims.norm_cfg))
            for _ in range(num_layers)
        )
        self.norm = build_norm_layer(dims.norm_cfg, dims.embed_dims)[1]

    def init_weights(self) -> None:
        """Initialise all weights and the tokens' content with Xavier's method, as in the transformer."""
        super().init_weights()
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for layer in self.layers:
            layer.cross_attn.init_weights()

    def forward(self, boxes: Tensor, features: ImageFeatures, groups: Tensor | None = None) -> Tensor:
        """Encode the prompt boxes of a batch.

        Args:
            boxes: (bs, M, 4) cxcywh in [0, 1] of the un-padded images; any finite values at padding.
            features: Features of the images that the boxes lie on.
            groups: (bs, M) index of the group of each box within its image, counted from 0; -1 at padding. None: every
                box is a separate group.

        Returns:
            (bs, G, C), G the largest number of groups on an image; rows without a group have no meaning.
        """
        # Number the groups.
        bs, num_boxes = boxes.shape[:2]
        if groups is None:
            groups = torch.arange(num_boxes, device=boxes.device).expand(bs, -1)
        num_groups = int(groups.max()) + 1
        # Prepend the aggregators to the boxes; tokens attend to their own group, or only to themselves.
        content = self.exemplar_content.expand(bs, num_boxes, -1)
        visible = torch.eye(num_boxes, dtype=torch.bool, device=boxes.device).expand(bs, -1, -1)
        if self.aggregator == 'class_token':
            whole = boxes.new_tensor([0.5, 0.5, 1.0, 1.0]).expand(bs, num_groups, -1)
            boxes = torch.cat([whole, boxes], 1)
            content = torch.cat([self.aggregator_content.expand(bs, num_groups, -1), content], 1)
            own = torch.cat([torch.arange(num_groups, device=boxes.device).expand(bs, -1), groups], 1)
            visible = (own[:, :, None] == own[:, None]) & (own >= 0)[:, None]
            visible = visible | torch.eye(own.shape[1], dtype=torch.bool, device=boxes.device)
        # Run the layers.
        tokens = self._run_layers(content, boxes, features, visible)
        if self.aggregator == 'class_token':
            return tokens[:, :num_groups]
        # Average over the boxes of each group.
        member = groups[:, None] == torch.arange(num_groups, device=groups.device)[:, None]
        weights = member.to(tokens.dtype) / member.sum(-1, keepdim=True).clamp(min=1)
        return weights @ tokens

    def _run_layers(self, content: Tensor, boxes: Tensor, features: ImageFeatures, visible: Tensor) -> Tensor:
        """Output (bs, S, C) of the last layer; ``visible`` (bs, S, S) True = may attend."""
        # Scale the boxes to the padded feature maps of every level, and encode their position.
        ratios = torch.cat([features.valid_ratios, features.valid_ratios], -1)
        reference_points = boxes[:, :, None] * ratios[:, None]
        encoding = coordinate_to_encoding(reference_points[:, :, 0], num_feats=self.embed_dims // 2)
        position = self.position_encoding(encoding.to(content.dtype))
        # Masks have the order (image, head) that torch expects, True = may not attend.
        forbidden = (~visible).repeat_interleave(self.num_heads, dim=0)
        for layer in self.layers:
            content = layer(
                content,
                value=features.feat,
                query_pos=position,
                self_attn_mask=forbidden,
                key_padding_mask=features.padding_mask,
                reference_points=reference_points,
                spatial_shapes=features.spatial_shapes,
                level_start_index=features.level_start_index,
            )
        return self.norm(content)
