"""Conversion of feature maps to tokens, and the position of each token in its image.

Deformable DETR, arXiv 2010.04159, section 4.1 (multi-scale features) and appendix A.4 (two-stage proposals).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.models.layers import SinePositionalEncoding
from torch import Tensor

from dinor1.structures import ImageFeatures
from dinor1.utils.precision import compute_dtype

# Side of the box proposed by a token of the first level, as a fraction of the image; it doubles with every level.
_FIRST_PROPOSAL_SIDE = 0.05
# Proposals with a coordinate of the centre or a side within this distance of 0 or 1 are not used.
_PROPOSAL_MARGIN = 0.01


def flatten_levels(
    levels: Sequence[Tensor],
    image_shapes: Sequence[tuple[int, int]],
    input_shape: tuple[int, int],
    positional_encoding: SinePositionalEncoding,
    level_embed: Tensor,
) -> ImageFeatures:
    """Flatten the levels of each image to one sequence of tokens.

    Args:
        levels: L feature maps of the neck, each (bs, C, height, width).
        image_shapes: (height, width) in pixels of each image without its padding.
        input_shape: (height, width) in pixels of the padded batch.
        positional_encoding: Module that encodes the positions of one feature map.
        level_embed: (L, C) added to the position encoding of each level.
    """
    # Make the padding mask of the batch at the size of the network input.
    padded = any(tuple(shape) != tuple(input_shape) for shape in image_shapes)
    pixel_mask = _padding_mask(image_shapes, input_shape, levels[0]) if padded else None
    # Flatten features, positions and padding of each level.
    feats, positions, masks, ratios = [], [], [], []
    for level, embed in zip(levels, level_embed, strict=True):
        if pixel_mask is None:
            position = positional_encoding(None, input=level)
        else:
            mask = F.interpolate(pixel_mask[None], size=level.shape[-2:]).to(torch.bool).squeeze(0)
            position = positional_encoding(mask)
            masks.append(mask.flatten(1))
            ratios.append(_valid_ratio(mask))
        feats.append(level.flatten(2).transpose(1, 2))
        positions.append(position.flatten(2).transpose(1, 2) + embed)
    # Concatenate the levels, and record where each one starts.
    shapes = tuple((level.shape[-2], level.shape[-1]) for level in levels)
    sizes = [height * width for height, width in shapes]
    return ImageFeatures(
        feat=torch.cat(feats, 1),
        pos=torch.cat(positions, 1),
        padding_mask=torch.cat(masks, 1) if masks else None,
        spatial_shapes=shapes,
        level_start_index=tuple(sum(sizes[:level]) for level in range(len(sizes))),
        valid_ratios=torch.stack(ratios, 1) if ratios else _all_valid(levels),
    )


def reference_points(features: ImageFeatures) -> Tensor:
    """Reference points of the encoder's deformable attention: the centre of each token, on every level.

    Returns:
        (bs, T, L, 2) x and y in [0, 1] of the padded feature maps.
    """
    # Normalise the centres of each level by the un-padded size of each image.
    ratios, points = features.valid_ratios, []
    for level, (height, width) in enumerate(features.spatial_shapes):
        x, y = _pixel_centres(height, width, features.feat.device)
        points.append(
            torch.stack([x / (ratios[:, None, level, 0] * width), y / (ratios[:, None, level, 1] * height)], -1)
        )
    # Convert them to fractions of the padded map of every level.
    return torch.cat(points, 1)[:, :, None] * ratios[:, None]


def token_proposals(features: ImageFeatures) -> tuple[Tensor, Tensor]:
    """Initial box of each token: a square centred on the token, whose side depends on the level.

    Returns:
        Boxes (bs, T, 4), as logits of normalised cxcywh (+inf where unusable), and (bs, T, 1) True = usable: not
        padding, and not too close to the edge of the image.
    """
    # Place the boxes of each level, relative to the un-padded image.
    boxes = []
    for level, (height, width) in enumerate(features.spatial_shapes):
        x, y = _pixel_centres(height, width, features.feat.device)
        side = torch.full_like(x, _FIRST_PROPOSAL_SIDE * 2.0**level)
        if features.padding_mask is None:
            box = torch.stack([x / width, y / height, side, side], -1).expand(features.batch_size, -1, -1)
        else:
            start = features.level_start_index[level]
            mask = features.padding_mask[:, start : start + height * width].unflatten(1, (height, width))
            valid_width, valid_height = (~mask[:, 0, :]).sum(1)[:, None], (~mask[:, :, 0]).sum(1)[:, None]
            side = side.expand(features.batch_size, -1)
            box = torch.stack([x / valid_width, y / valid_height, side, side], -1)
        boxes.append(box)
    # Convert the boxes to logits, and mark those that are usable.
    proposals = torch.cat(boxes, 1)  # (bs, N, 4)
    inside = (proposals > _PROPOSAL_MARGIN) & (proposals < 1 - _PROPOSAL_MARGIN)
    usable = inside.sum(-1, keepdim=True) == proposals.shape[-1]
    logits = torch.log(proposals / (1 - proposals))
    if features.padding_mask is not None:
        usable = usable & ~features.padding_mask[..., None]
    return logits.masked_fill(~usable, float('inf')), usable


def _pixel_centres(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Centres x and y (height * width,) of the pixels of a feature map, in pixels, row after row."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device) + 0.5,
        torch.arange(width, dtype=torch.float32, device=device) + 0.5,
        indexing='ij',
    )
    return x.flatten(), y.flatten()


def _padding_mask(image_shapes: Sequence[tuple[int, int]], input_shape: tuple[int, int], like: Tensor) -> Tensor:
    """Mask (bs, height, width) with 1 = padding, 0 = image, in the dtype and on the device of ``like``."""
    mask = like.new_ones(len(image_shapes), *input_shape)
    for row, (height, width) in zip(mask, image_shapes, strict=True):
        row[:height, :width] = 0
    return mask


def _all_valid(levels: Sequence[Tensor]) -> Tensor:
    """Ones (bs, L, 2), at least in float32: in half precision, products with widths above 256 would be rounded."""
    return levels[0].new_ones(len(levels[0]), len(levels), 2, dtype=compute_dtype(levels[0]))


def _valid_ratio(mask: Tensor) -> Tensor:
    """Fractions (bs, 2) of width and height that are not padding, from a mask (bs, height, width), True = padding."""
    height = (~mask[:, :, 0]).sum(1).float() / mask.shape[1]
    width = (~mask[:, 0, :]).sum(1).float() / mask.shape[2]
    return torch.stack([width, height], -1)
