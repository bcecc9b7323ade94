"""Features of boxes from a frozen backbone: means of its feature maps over boxes, or over crops of the image."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError

# EfficientNet-Lite0 from the extra dinor1[lite], with mean and standard deviation of its input.
LITE0 = dict(type='TimmBackbone', model_name='tf_efficientnet_lite0', out_indices=(2, 3, 4), pretrained='package')
MEAN, STD = 127.0, 128.0
_MULTIPLE = 32
# Use strides 8 and 16 for boxes: in coarser maps, an object is mixed with its surroundings.
_BOX_LEVELS = 2


class FrozenFeatures:
    """A pretrained backbone that turns boxes into unit vectors.

    Args:
        backbone: Config of the backbone; by default EfficientNet-Lite0 with ImageNet weights.
        longer_side: Length in pixels to which the longer side of an image is resized.
        crop_size: Side in pixels to which a crop is resized.

    Raises:
        InputError: the backbone or its weights are missing, or a length is not positive.
    """

    def __init__(self, backbone: Mapping[str, Any] | None = None, longer_side: int = 512, crop_size: int = 128) -> None:
        if min(longer_side, crop_size) < 1:
            raise InputError(f'FrozenFeatures: lengths must be positive, got {longer_side} and {crop_size}')
        self.longer_side, self.crop_size = longer_side, crop_size
        self.backbone = MODELS.build(dict(backbone or LITE0))
        self.backbone.init_weights()
        self.backbone.eval()

    @torch.no_grad()
    def maps(self, image: np.ndarray) -> tuple[tuple[Tensor, ...], float]:
        """Compute the feature maps of an image.

        Args:
            image: (H, W, 3) BGR, as OpenCV reads it.

        Returns:
            Levels (C, h, w), whose cells cover the image from its upper left corner on, and the factor by which the
            image was resized.
        """
        # Resize the image, and pad it with zeros, the mean of the input.
        height, width = image.shape[:2]
        scale = self.longer_side / max(height, width)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        resized = _to_tensor(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        pad = [-side % _MULTIPLE for side in resized.shape[-2:]]
        batch = F.pad(resized, (0, pad[1], 0, pad[0]))[None]
        return tuple(level[0] for level in self.backbone(batch)), scale

    @torch.no_grad()
    def boxes(self, image: np.ndarray, boxes: np.ndarray) -> Tensor:
        """Compute unit vectors of boxes: normalised means over the two finest levels, concatenated.

        Args:
            image: (H, W, 3) BGR.
            boxes: (N, 4), (x1, y1, x2, y2) pixels of the image.

        Returns:
            (N, sum of C) unit vectors.
        """
        levels, scale = self.maps(image)
        vectors = []
        for level in levels[:_BOX_LEVELS]:
            stride = _stride(level, image.shape, scale)
            mean = mean_over_boxes(level, torch.from_numpy(boxes * (scale / stride)))
            # Subtract the mean of the image, which does not distinguish boxes.
            vectors.append(F.normalize(mean - level.mean((1, 2)), dim=-1))
        return torch.cat(vectors, 1) / len(vectors) ** 0.5

    @torch.no_grad()
    def crops(self, image: np.ndarray, boxes: np.ndarray) -> Tensor:
        """Compute unit vectors (N, C) of boxes from crops resized to a square: means over the last level.

        Args:
            image: (H, W, 3) BGR.
            boxes: (N, 4), (x1, y1, x2, y2) pixels of the image, N >= 1.
        """
        height, width = image.shape[:2]
        crops = []
        for x1, y1, x2, y2 in boxes:
            # Round the box outward, and keep at least one pixel inside the image.
            left, top = min(max(int(x1), 0), width - 1), min(max(int(y1), 0), height - 1)
            right, bottom = max(int(np.ceil(x2)), left + 1), max(int(np.ceil(y2)), top + 1)
            crops.append(_to_tensor(cv2.resize(image[top:bottom, left:right], (self.crop_size,) * 2)))
        # Describe each crop by the mean of the last level.
        return F.normalize(self.backbone(torch.stack(crops))[-1].mean((2, 3)), dim=-1)


def mean_over_boxes(level: Tensor, boxes: Tensor) -> Tensor:
    """Mean of a feature map over boxes, in which cells are weighted by their area inside the box.

    Args:
        level: (C, H, W) feature map.
        boxes: (N, 4), (x1, y1, x2, y2) in cells; the first cell spans 0 to 1. Boxes are clipped to the map; a box
            without area gets the feature of the cell that contains it.

    Returns:
        (N, C) float32.
    """
    _, height, width = level.shape
    # Integrate the map up to the corners of its cells; between the corners, the integral is bilinear.
    integral = F.pad(level.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    # Clip the boxes to the map.
    limit = boxes.new_tensor([width, height] * 2, dtype=torch.float64)
    boxes = boxes.double().clamp(min=0).minimum(limit)
    tiny = 1e-3
    low = boxes[:, :2].minimum(limit[:2] - tiny)
    high = boxes[:, 2:].maximum(low + tiny)
    # Integrate over each box from the values at its four corners.
    points = torch.stack([low, torch.stack([high[:, 0], low[:, 1]], 1), torch.stack([low[:, 0], high[:, 1]], 1), high])
    grid = points / limit[:2] * 2 - 1
    values = F.grid_sample(integral[None], grid[None], align_corners=True)[0]  # (C, 4, N)
    total = values[:, 0] - values[:, 1] - values[:, 2] + values[:, 3]
    return (total / (high - low).prod(1)).t().float()


def _to_tensor(image: np.ndarray) -> Tensor:
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    return (torch.from_numpy(rgb).permute(2, 0, 1).float() - MEAN) / STD


def _stride(level: Tensor, shape: Sequence[int], scale: float) -> float:
    """Stride of a level: pixels of the network input per cell, a power of two."""
    longest = max(-(-max(round(side * scale), 1) // _MULTIPLE) * _MULTIPLE for side in shape[:2])
    return longest / max(level.shape[-2:])
