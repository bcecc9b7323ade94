"""Sizes shared by encoder, decoder and prompt encoder, so that a config states each size once."""

from dataclasses import dataclass, field
from typing import Any

from dinor1.utils.errors import InputError


@dataclass(frozen=True)
class TransformerDims:
    """Sizes of the transformer.

    Attributes:
        embed_dims: Width C.
        num_heads: Number of heads of deformable attention and of the decoder's attention; fusion and prompt
            self-attention have half as many.
        feedforward_channels: Hidden width of the feed-forward networks, except for prompts in the encoder, where it is
            4 C.
        num_points: Sampling points of deformable attention per head and level.
        num_feature_levels: Number of feature levels L of the neck.
        norm_cfg: Config of the norm in all layers, in the fusion, in the prompt encoder and before query selection;
            backbone and neck have their own norms.

    Raises:
        InputError: the sizes do not fit together.
    """

    embed_dims: int = 256
    num_heads: int = 8
    feedforward_channels: int = 2048
    num_points: int = 4
    num_feature_levels: int = 4
    norm_cfg: dict[str, Any] = field(default_factory=lambda: dict(type='LN'))

    def __post_init__(self) -> None:
        if (
            min(self.embed_dims, self.num_heads, self.feedforward_channels, self.num_points, self.num_feature_levels)
            < 1
        ):
            raise InputError(f'model.transformer: all sizes must be at least 1, got {self}')
        if self.num_heads % 2 or self.embed_dims % self.num_heads or self.embed_dims % 4:
            raise InputError(
                'model.transformer: num_heads must be even, and embed_dims a multiple of num_heads and of 4, got '
                f'num_heads={self.num_heads} and embed_dims={self.embed_dims}'
            )

    def deformable_attention(self) -> dict[str, Any]:
        """Arguments of deformable attention into the image features."""
        return dict(
            embed_dims=self.embed_dims,
            num_heads=self.num_heads,
            num_levels=self.num_feature_levels,
            num_points=self.num_points,
            dropout=0.0,
            batch_first=True,
        )

    def attention(self, heads: int | None = None) -> dict[str, Any]:
        """Arguments of multi-head attention with ``heads`` heads, by default ``num_heads``."""
        return dict(embed_dims=self.embed_dims, num_heads=heads or self.num_heads, dropout=0.0, batch_first=True)

    def ffn(self, channels: int | None = None) -> dict[str, Any]:
        """Arguments of a feed-forward network with hidden width ``channels``, by default ``feedforward_channels``."""
        channels = channels or self.feedforward_channels
        # MMCV's default activation works in place on a view, which autograd copies four times in the backward pass.
        activation = dict(type='ReLU', inplace=False)
        return dict(embed_dims=self.embed_dims, feedforward_channels=channels, ffn_drop=0.0, act_cfg=activation)
