"""MMCV's multi-scale deformable attention module, computed by this project's operator."""

from typing import Any

from mmcv.ops import MultiScaleDeformableAttention as _MMCVAttention
from torch import Tensor

from dinor1.ops import ms_deform_attn_predicted
from dinor1.ops.ms_deform_attn.checks import LevelShapes, LevelStarts
from dinor1.registry import MODELS


@MODELS.register_module()
class MSDeformAttention(_MMCVAttention):
    """Deformable DETR's attention (Zhu et al., arXiv 2010.04159) on :func:`dinor1.ops.ms_deform_attn_predicted`.

    Parameters and state dict are those of MMCV, so that published checkpoints fit. There are three differences: the
    batch always comes first; the operator also computes softmax and sampling locations, always in single precision,
    since half precision is too coarse for coordinates in a feature map; and the operator checks the shapes.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        *,
        reference_points: Tensor,
        spatial_shapes: LevelShapes,
        level_start_index: LevelStarts,
        **kwargs: Any,
    ) -> Tensor:
        """Sample ``value`` around the reference points.

        Args:
            query: (bs, num_queries, C).
            key: Unused: deformable attention has no keys.
            value: (bs, sum HW, C). Default: ``query``.
            identity: (bs, num_queries, C) added to the result. Default: ``query``.
            query_pos: (bs, num_queries, C) added to ``query`` before offsets and weights are predicted.
            key_padding_mask: (bs, sum HW) True = padding; its values are set to zero.
            reference_points: (bs, num_queries, L, 2 or 4), points or cxcywh boxes, in [0, 1] of the padded feature
                maps; offsets scale with the box.
            spatial_shapes: (L, 2) height and width of each level.
            level_start_index: (L,) first token of each level.
            **kwargs: Ignored; MMCV's layers pass the same arguments to every kind of attention.

        Returns:
            (bs, num_queries, C).
        """
        # Fill in defaults, and add positions.
        value = query if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        bs, num_queries, _ = query.shape

        # Project the values to (bs, sum HW, heads, dim), zero at padding.
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        value = value.view(bs, value.shape[1], self.num_heads, -1)
        # Predict offsets and weights, sample, and project.
        per_point = (bs, num_queries, self.num_heads, self.num_levels, self.num_points)
        sampled = ms_deform_attn_predicted(
            value,
            spatial_shapes,
            level_start_index,
            reference_points,
            self.sampling_offsets(query).view(*per_point, 2),
            self.attention_weights(query).view(per_point),
        )
        return self.dropout(self.output_proj(sampled)) + identity
