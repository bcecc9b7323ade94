"""Visual prompt encoder: one embedding per box on an image.

DINO-R1, arXiv 2505.24025, section on visual prompting; the box-conditioned deformable attention is T-Rex2's
(arXiv 2403.14610).
"""

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN
from mmdet.models.layers.transformer.utils import MLP, coordinate_to_encoding
from mmengine.model import BaseModule
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.structures import ImageFeatures
from dinor1.utils.errors import InputError

from ..transformer.deformable_attention import MSDeformAttention
from ..transformer.dims import TransformerDims


def check_source(source: str) -> str:
    """Check the ``source`` of a prompt encoder: the image features that it reads.

    ``neck``: the features before the encoder of the detector, as in DINO-R1 and DETR-ViP. ``encoder``: its output, as
    in PET-DINO (arXiv 2604.00503); it must then not depend on the prompts, which do not exist yet when it runs.

    Raises:
        InputError: ``source`` has another value.
    """
    if source not in ('neck', 'encoder'):
        raise InputError(f"model.prompts.encoder.source must be 'neck' or 'encoder', got {source!r}")
    return source


class SelfOnlyAttention(BaseModule):
    """Self-attention with a mask that lets each prompt attend only to itself.

    A softmax over one key is 1 for any query, key and position, so that multi-head attention reduces to the value
    projection and the output projection. Query and key projections would get no gradient and are omitted.

    Args:
        embed_dims: Width C.
    """

    def __init__(self, embed_dims: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.value_proj = nn.Linear(embed_dims, embed_dims)
        self.output_proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, prompts: Tensor) -> Tensor:
        """(bs, M, C) -> (bs, M, C), without the residual connection."""
        return self.output_proj(self.value_proj(prompts))


@MODELS.register_module()
class VisualPromptEncoder(BaseModule):
    """One layer of {deformable cross-attention into the image, self-attention of a prompt to itself, FFN}.

    A prompt does not attend to other prompts: an embedding depends only on its image and box, and can be stored in a
    bank. :func:`upgrade_prompt_encoder` converts weights of the release and of this project's first format.

    Args:
        dims: Sizes of the transformer.
        source: ``neck`` or ``encoder``: the features that the boxes are encoded from, see :func:`check_source`.

    Attributes:
        aggregates: False: every box has a separate embedding.
    """

    aggregates = False

    def __init__(self, dims: TransformerDims, source: str = 'neck', init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.embed_dims, self.source = dims.embed_dims, check_source(source)
        self.content_query = nn.Parameter(torch.zeros(1, dims.embed_dims))
        self.visual_bbox_encoding = MLP(2 * dims.embed_dims, dims.embed_dims, dims.embed_dims, 2)
        self.cross_attn = MSDeformAttention(**dims.deformable_attention())
        self.self_attn = SelfOnlyAttention(dims.embed_dims)
        self.ffn = FFN(**dims.ffn())
        # One norm each after cross-attention, self-attention and FFN.
        self.norms = nn.ModuleList(build_norm_layer(dims.norm_cfg, dims.embed_dims)[1] for _ in range(3))

    def init_weights(self) -> None:
        """Initialise all weights and the content query with Xavier's method, as in the transformer."""
        super().init_weights()
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        # Use the scale of multi-head attention, whose joint projection (3 C, C) includes the values.
        nn.init.xavier_uniform_(self.self_attn.value_proj.weight, gain=2**-0.5)
        self.cross_attn.init_weights()

    def forward(self, boxes: Tensor, features: ImageFeatures) -> Tensor:
        """Encode the prompt boxes of a batch.

        Args:
            boxes: (bs, M, 4) cxcywh in [0, 1] of the un-padded images. Images with fewer boxes are padded with any
                finite values, since rows do not depend on each other.
            features: Features of the images that the boxes lie on, before the encoder.

        Returns:
            (bs, M, C).
        """
        # Scale the boxes to the padded feature maps of every level, and encode their position.
        ratios = torch.cat([features.valid_ratios, features.valid_ratios], -1)
        reference_points = boxes[:, :, None] * ratios[:, None]
        encoding = coordinate_to_encoding(reference_points[:, :, 0], num_feats=self.embed_dims // 2)
        # Sample the image features around each box.
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
        # Apply self-attention and FFN, with a norm after each part.
        query = self.norms[0](query)
        query = self.norms[1](query + self.self_attn(query))
        return self.norms[2](self.ffn(query))


def upgrade_prompt_encoder(state_dict: dict[str, Tensor], prefix: str = '') -> bool:
    """Convert weights of the first format in place.

    The first format, which is also that of the release, had a full ``nn.MultiheadAttention`` as self-attention, of
    which only the value rows had an effect, and the norms of cross- and self-attention in the opposite order.

    Args:
        state_dict: Weights, changed in place.
        prefix: Prefix of the encoder's parameter names, such as ``'prompt_encoder.'``.

    Returns:
        True if the weights were of the first format.
    """
    # Recognise the first format.
    old, new = f'{prefix}self_attn.attn.', f'{prefix}self_attn.'
    if f'{old}in_proj_weight' not in state_dict:
        return False
    # Keep the value rows, and rename the output projection.
    for kind in ('weight', 'bias'):
        rows = state_dict.pop(f'{old}in_proj_{kind}')
        state_dict[f'{new}value_proj.{kind}'] = rows[len(rows) // 3 * 2 :].clone()
        state_dict[f'{new}output_proj.{kind}'] = state_dict.pop(f'{old}out_proj.{kind}')
    # Swap the norms.
    first, second = f'{prefix}norms.0.', f'{prefix}norms.1.'
    names = [name.removeprefix(first) for name in state_dict if name.startswith(first)]
    for name in names:
        state_dict[first + name], state_dict[second + name] = state_dict[second + name], state_dict[first + name]
    return True
