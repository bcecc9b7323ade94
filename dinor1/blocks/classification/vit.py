"""A small pre-norm vision transformer made only of linear layers and one kind of norm.

A. Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv 2010.11929. It is not taken from a library, so
that norm conversion and integer training see every linear map.
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from dinor1.registry import MODELS


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, N, C)."""

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims {embed_dims} is not a multiple of num_heads {num_heads}')
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, embed_dims: int, num_heads: int, feedforward_channels: int, norm_cfg: dict | None) -> None:
        super().__init__()
        self.norm1 = _norm(norm_cfg, embed_dims)
        self.attn = Attention(embed_dims, num_heads)
        self.norm2 = _norm(norm_cfg, embed_dims)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dims, feedforward_channels), nn.GELU(), nn.Linear(feedforward_channels, embed_dims)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@MODELS.register_module()
class SmallViT(nn.Module):
    """Pre-norm ViT without a class token.

    Args:
        norm_cfg: Any norm over the last axis of (B, N, C); None: no norm.
        img_size: Side of the square images.
        patch_size: Side of a patch; divides ``img_size``.
        in_channels: Channels of the images.
        embed_dims: Width C.
        num_layers: Blocks.
        num_heads: Heads of each block.
        feedforward_channels: Hidden width of the MLPs.
    """

    def __init__(
        self,
        norm_cfg: dict | None,
        img_size: int = 28,
        patch_size: int = 4,
        in_channels: int = 1,
        embed_dims: int = 64,
        num_layers: int = 4,
        num_heads: int = 4,
        feedforward_channels: int = 128,
    ) -> None:
        super().__init__()
        if img_size % patch_size:
            raise ValueError(f'img_size {img_size} is not a multiple of patch_size {patch_size}')
        self.patch_size = patch_size
        # A linear map of pixels gives the same result as a convolution; converters then see only linear layers.
        self.patch_embed = nn.Linear(in_channels * patch_size**2, embed_dims)
        self.pos_embed = nn.Parameter(torch.empty(1, (img_size // patch_size) ** 2, embed_dims))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.layers = nn.Sequential(
            *(Block(embed_dims, num_heads, feedforward_channels, norm_cfg) for _ in range(num_layers))
        )
        self.norm = _norm(norm_cfg, embed_dims)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, img_size, img_size) -> tokens (B, N, C)."""
        patches = F.unfold(images, self.patch_size, stride=self.patch_size).transpose(1, 2)
        return self.norm(self.layers(self.patch_embed(patches) + self.pos_embed))


def _norm(cfg: dict | None, embed_dims: int) -> nn.Module:
    return nn.Identity() if cfg is None else build_norm_layer(cfg, embed_dims)[1]
