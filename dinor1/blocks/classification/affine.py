"""Random affine maps of small images, as in affNIST.

T. Tieleman's affNIST (University of Toronto, 2013) shows each MNIST digit in a 40 x 40 frame under a random rotation,
shear, scale of either axis and shift. The original files are Matlab archives; :func:`random_affine` and :func:`warp`
make a similar data set. It is not the published one; results measured on it should say so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AffineRange:
    """Ranges of uniform draws; the defaults are the values usually quoted for affNIST.

    Attributes:
        rotation: Largest absolute angle, degrees.
        shear: Largest absolute shear.
        scale: Least and largest scale of each axis, drawn independently.
        shift: Shift the image at random, with all its ink inside the frame.
    """

    rotation: float = 20.0
    shear: float = 0.2
    scale: Sequence[float] = (0.8, 1.2)
    shift: bool = True

    def __post_init__(self) -> None:
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f'scale: expected two positive numbers in ascending order, got {self.scale}')
        if self.rotation < 0 or self.shear < 0:
            raise ValueError(f'rotation and shear must not be negative, got {self.rotation} and {self.shear}')


def random_affine(count: int, ranges: AffineRange, generator: torch.Generator) -> Tensor:
    """(count, 2, 2) matrices diag(s_x, s_y) [[1, shear], [0, 1]] R(angle), which map source to target."""
    # Draw angle in radians, shear and scales uniformly from their ranges.
    uniform = torch.rand(4, count, generator=generator)
    angle = (2 * uniform[0] - 1) * torch.pi * ranges.rotation / 180
    shear = (2 * uniform[1] - 1) * ranges.shear
    low, high = ranges.scale
    scale_x, scale_y = low + (high - low) * uniform[2:]
    # Multiply the matrices.
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    one, zero = torch.ones(count), torch.zeros(count)
    return torch.stack([scale_x, scale_x * shear, zero, scale_y * one], 1).view(-1, 2, 2) @ rotation


def warp(images: Tensor, matrices: Tensor, shift: Tensor | None = None) -> Tensor:
    """Map images by ``matrices`` about their centre, then move them by ``shift``; bilinear, zero outside.

    Args:
        images: (B, C, H, W), float.
        matrices: (B, 2, 2) on (x, y) in pixels, y down, invertible.
        shift: (B, 2) pixels in x and y. Default: none.

    Returns:
        (B, C, H, W).
    """
    height, width = images.shape[-2:]
    half = images.new_tensor([width / 2, height / 2])
    inverse = torch.linalg.inv(matrices)
    offset = images.new_zeros(len(images), 2, 1) if shift is None else -inverse @ shift[:, :, None]
    # grid_sample uses coordinates from -1 to 1 along either side, so non-square frames need rescaling.
    theta = torch.cat([inverse * half[None] / half[:, None], offset / half[:, None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode='zeros', align_corners=False)


def random_shift(images: Tensor, matrices: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 2) shifts, uniform among the shifts that keep the ink of the mapped images inside the frame.

    Where a mapped image is larger than the frame, the shift centres it.

    Args:
        images: (B, C, H, W) before the map; ink is every pixel above zero.
        matrices: (B, 2, 2) as in :func:`warp`.
        generator: Source of the draws.
    """
    # Map the centre of every pixel.
    height, width = images.shape[-2:]
    ink = (images > 0).any(1)
    x = torch.arange(width) - (width - 1) / 2
    y = torch.arange(height) - (height - 1) / 2
    points = torch.stack([x.repeat(height), y.repeat_interleave(width)])
    mapped = matrices @ points
    blank = ~ink.flatten(1)[:, None]
    # Extent of the ink; half a pixel on each side, since points are pixel centres.
    low = mapped.masked_fill(blank, torch.inf).amin(-1) - 0.5
    high = mapped.masked_fill(blank, -torch.inf).amax(-1) + 0.5
    # Draw a shift between the bounds, or centre an image that does not fit.
    half = images.new_tensor([width / 2, height / 2])
    least, most = -half - low, half - high
    draw = torch.rand(len(images), 2, generator=generator)
    shift = torch.where(least <= most, least + (most - least) * draw, (least + most) / 2)
    # A blank image has no ink to keep.
    return shift.nan_to_num(nan=0.0)


def affine_images(images: Tensor, ranges: AffineRange, seed: int, chunk: int = 4096) -> Tensor:
    """Apply a random map to each image.

    Args:
        images: (B, C, H, W) uint8.
        ranges: Ranges of the random maps.
        seed: The same seed gives the same images.
        chunk: Images per pass; limits the memory.

    Returns:
        (B, C, H, W) uint8.
    """
    # Draw all matrices first, so that they do not depend on the size of the chunks.
    generator = torch.Generator().manual_seed(seed)
    matrices = random_affine(len(images), ranges, generator)
    # Warp chunk by chunk, which limits the memory.
    warped = torch.empty_like(images)
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        batch = images[part].float()
        shift = random_shift(batch, matrices[part], generator) if ranges.shift else None
        warped[part] = warp(batch, matrices[part], shift).round().clamp(0, 255).to(torch.uint8)
    return warped
