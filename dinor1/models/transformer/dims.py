"""Sizes shared by encoder, decoder and prompt encoder, so that a config states each of them once."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TransformerDims:
    """Sizes of the transformer.

    Attributes:
        embed_dims: Width C.
        num_heads: Heads of deformable attention and of the decoder's attention; fusion and prompt self-attention have
            half as many.
        feedforward_channels: Hidden width of the feed-forward networks; it is 4 C for prompts in the encoder.
        num_points: Sampling points of deformable attention per head and level.
        num_feature_levels: Number of feature levels L of the neck.
        norm_cfg: Norm of all layers, of the fusion, of the prompt encoder and before query selection; backbone and
            neck have norms of their own.
    """

    embed_dims: int = 256
    num_heads: int = 8
    feedforward_channels: int = 2048
    num_points: int = 4
    num_feature_levels: int = 4
    norm_cfg: dict[str, Any] = field(default_factory=lambda: dict(type='LN'))

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
        """Arguments of multi-head attention, with ``num_heads`` heads by default."""
        return dict(embed_dims=self.embed_dims, num_heads=heads or self.num_heads, dropout=0.0, batch_first=True)

    def ffn(self, channels: int | None = None) -> dict[str, Any]:
        """Arguments of a feed-forward network, of hidden width ``feedforward_channels`` by default."""
        channels = channels or self.feedforward_channels
        return dict(embed_dims=self.embed_dims, feedforward_channels=channels, ffn_drop=0.0)
