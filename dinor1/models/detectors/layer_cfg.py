"""Transformer configs from a few numbers, so that a model's width is written once."""

from mmengine.config import ConfigDict


def _merged(default: dict, override: dict) -> ConfigDict:
    """``default`` with the leaves of ``override`` put in, at any depth."""
    for key, value in override.items():
        nested = isinstance(value, dict) and isinstance(default.get(key), dict)
        default[key] = _merged(default[key], value) if nested else value
    return ConfigDict(default)


def encoder_cfg(
    embed_dims: int,
    num_heads: int,
    feedforward_channels: int,
    num_levels: int,
    num_points: int,
    norm_cfg: dict,
    override: dict,
) -> ConfigDict:
    """Grounding DINO's encoder at any width: fusion and prompt layers have half the heads and width 4 C inside."""
    return _merged(
        dict(
            num_layers=6,
            layer_cfg=dict(
                self_attn_cfg=dict(
                    embed_dims=embed_dims,
                    num_heads=num_heads,
                    num_levels=num_levels,
                    num_points=num_points,
                    dropout=0.0,
                ),
                ffn_cfg=dict(embed_dims=embed_dims, feedforward_channels=feedforward_channels, ffn_drop=0.0),
                norm_cfg=dict(norm_cfg),
            ),
            text_layer_cfg=dict(
                self_attn_cfg=dict(embed_dims=embed_dims, num_heads=num_heads // 2, dropout=0.0),
                ffn_cfg=dict(embed_dims=embed_dims, feedforward_channels=4 * embed_dims, ffn_drop=0.0),
                norm_cfg=dict(norm_cfg),
            ),
            fusion_layer_cfg=dict(
                v_dim=embed_dims,
                l_dim=embed_dims,
                embed_dim=4 * embed_dims,
                num_heads=num_heads // 2,
                init_values=1e-4,
            ),
        ),
        override,
    )


def decoder_cfg(
    embed_dims: int,
    num_heads: int,
    feedforward_channels: int,
    num_levels: int,
    num_points: int,
    norm_cfg: dict,
    override: dict,
) -> ConfigDict:
    """Grounding DINO's decoder at any width."""
    attention = dict(embed_dims=embed_dims, num_heads=num_heads, dropout=0.0)
    return _merged(
        dict(
            num_layers=6,
            return_intermediate=True,
            layer_cfg=dict(
                self_attn_cfg=dict(attention),
                cross_attn_text_cfg=dict(attention),
                cross_attn_cfg=dict(attention, num_levels=num_levels, num_points=num_points),
                ffn_cfg=dict(embed_dims=embed_dims, feedforward_channels=feedforward_channels, ffn_drop=0.0),
                norm_cfg=dict(norm_cfg),
            ),
            post_norm_cfg=None,
        ),
        override,
    )
