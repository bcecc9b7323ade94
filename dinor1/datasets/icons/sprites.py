"""One object of the icon world: a drawing that is resized, distorted, coloured and blended into an image."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from dinor1.datasets.icons.render import Rendered

# Pixels with at least this opacity belong to an object.
MIN_OPACITY = 64
# Minimum sum of absolute differences of the channels between a glyph and its background.
MIN_CONTRAST = 150


class Sprite(NamedTuple):
    """A drawing at its final size and orientation.

    Attributes:
        opacity: (h, w) uint8, cropped to the pixels of at least ``MIN_OPACITY``.
        colours: (h, w, 3) float32, BGR in [0, 255]; None for a drawing of one colour, which may be chosen.
    """

    opacity: np.ndarray
    colours: np.ndarray | None


@dataclass(frozen=True)
class Appearance:
    """Settings for drawing objects.

    Attributes:
        distort: Whether to rotate, shear and stretch objects, and change the perspective.
        glyph: (3,) BGR colour of all objects; None: a random colour for each object.
        tile: Probability of a tile behind an object.
        tile_colour: (3,) BGR colour of all tiles; None: a random colour for each tile.
        tile_shape: ``square``, ``round`` or ``circle``; None: a random shape for each tile.
    """

    distort: bool = True
    glyph: np.ndarray | None = None
    tile: float = 0.3
    tile_colour: np.ndarray | None = None
    tile_shape: str | None = None


def make_sprite(rng: np.random.Generator, rendered: Rendered, index: int, size: int, distort: bool) -> Sprite:
    """Resize a drawing and distort it.

    Args:
        rng: Source of the distortion.
        rendered: All drawings.
        index: Index of the drawing.
        size: Length of its longer side before it is distorted, in pixels.
        distort: Rotate by up to 25 degrees, shear by up to 0.2, stretch by up to 1.2 and move each corner by up to 6 %.
            Drawings are never mirrored, because left and right are different concepts.
    """
    # Resize the drawing.
    opacity = cv2.resize(rendered.opacity[index], (size, size), interpolation=cv2.INTER_AREA)
    palette = rendered.colour_index[index]
    colours = None
    if palette >= 0:
        colours = cv2.resize(rendered.colours[palette], (size, size), interpolation=cv2.INTER_AREA)
    # Move the corners by a random linear map and random offsets, and warp the drawing.
    if distort:
        angle, shear = np.deg2rad(rng.uniform(-25, 25)), rng.uniform(-0.2, 0.2)
        stretch = np.exp(rng.uniform(-0.18, 0.18))
        cos, sin = np.cos(angle), np.sin(angle)
        linear = np.array([[cos, -sin], [sin, cos]]) @ np.array([[stretch, shear], [0, 1 / stretch]])
        corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
        moved = (corners @ linear.T + rng.uniform(-0.06, 0.06, size=(4, 2))) * size
        moved -= moved.min(axis=0)
        width, height = (np.ceil(moved.max(axis=0)).astype(int) + 1).tolist()
        source = ((corners + 0.5) * size).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(source, moved.astype(np.float32))
        opacity = cv2.warpPerspective(opacity, matrix, (width, height), flags=cv2.INTER_LINEAR)
        if colours is not None:
            colours = cv2.warpPerspective(
                colours, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
    # Thin lines fade when they shrink. Scale the opacity, so that at least one pixel of every drawing is opaque.
    peak = int(opacity.max())
    if 0 < peak < 255:
        opacity = cv2.convertScaleAbs(opacity, alpha=255 / peak)
    # Crop to the visible pixels.
    x, y, w, h = cv2.boundingRect((opacity >= MIN_OPACITY).view(np.uint8))
    opacity = opacity[y : y + h, x : x + w]
    return Sprite(opacity, None if colours is None else colours[y : y + h, x : x + w].astype(np.float32))


def contrasting_colour(rng: np.random.Generator, behind: np.ndarray) -> np.ndarray:
    """A random (3,) BGR colour that differs from ``behind`` by at least ``MIN_CONTRAST``."""
    for _ in range(8):
        colour = rng.random(3) * 255
        if np.abs(colour - behind).sum() >= MIN_CONTRAST:
            return colour
    return np.full(3, 0.0 if behind.mean() > 128 else 255.0)


def paint(
    rng: np.random.Generator, canvas: np.ndarray, sprite: Sprite, x: int, y: int, look: Appearance, margin: int
) -> None:
    """Blend a sprite, and optionally a tile behind it, into an image.

    Args:
        rng: Source of colours, light and blur.
        canvas: (H, W, 3) float32, which is drawn on.
        sprite: The object.
        x: Column of its left edge, which may lie outside the image.
        y: Row of its upper edge, which may be outside of the image.
        look: Colours.
        margin: Pixels of the tile around the object; 0: no tile.
    """
    # Paint the tile, and find the visible part of the object.
    height, width = canvas.shape[:2]
    h, w = sprite.opacity.shape
    if margin:
        _paint_tile(rng, canvas, (x - margin, y - margin, x + w + margin, y + h + margin), look)
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + h, height), min(x + w, width)
    region = canvas[top:bottom, left:right]
    inside = slice(top - y, bottom - y), slice(left - x, right - x)
    opacity = sprite.opacity
    if look.distort and rng.random() < 0.1:
        opacity = cv2.GaussianBlur(opacity, (0, 0), rng.uniform(0.4, 0.9))
    share = opacity[inside][..., None] * np.float32(1 / 255)
    # Choose the colours, and blend them into the image.
    behind = region.mean(axis=(0, 1))
    if sprite.colours is not None:
        # Change the brightness and the balance of the channels of coloured drawings.
        colour = np.clip(sprite.colours[inside] * rng.uniform(0.8, 1.2, size=3).astype(np.float32), 0, 255)
    else:
        colour = contrasting_colour(rng, behind) if look.glyph is None else look.glyph
        if np.abs(colour - behind).sum() < MIN_CONTRAST:
            colour = contrasting_colour(rng, behind)
        colour = np.asarray(colour, np.float32)
    if look.distort and rng.random() < 0.4:
        # Add light from one side.
        ramp = np.linspace(rng.uniform(0.7, 1), rng.uniform(1, 1.3), right - left, dtype=np.float32)
        colour = np.clip(colour * ramp[None, :, None], 0, 255)
    region += (colour - region) * share


def _paint_tile(
    rng: np.random.Generator, canvas: np.ndarray, corners: tuple[int, int, int, int], look: Appearance
) -> None:
    """Paint a rectangle, plain or with round corners, or an ellipse."""
    height, width = canvas.shape[:2]
    x0, y0, x1, y1 = corners
    top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, height), min(x1, width)
    region = canvas[top:bottom, left:right]
    behind = region.mean(axis=(0, 1))
    # Choose shape and colour.
    shape = look.tile_shape or ('square', 'round', 'circle')[rng.integers(3)]
    colour = contrasting_colour(rng, behind) if look.tile_colour is None else look.tile_colour
    if shape == 'square':
        region[:] = colour
        return
    # Draw the shape as a mask.
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    h, w = mask.shape
    if shape == 'circle':
        cv2.ellipse(mask, (w // 2, h // 2), (w // 2, h // 2), 0, 0, 360, 255, -1, cv2.LINE_AA)
    else:
        radius = max(2, min(h, w) // 4)
        cv2.rectangle(mask, (radius, 0), (w - 1 - radius, h - 1), 255, -1)
        cv2.rectangle(mask, (0, radius), (w - 1, h - 1 - radius), 255, -1)
        for cx in (radius, w - 1 - radius):
            for cy in (radius, h - 1 - radius):
                cv2.circle(mask, (cx, cy), radius, 255, -1, cv2.LINE_AA)
    # Blend the colour into the visible part of the tile.
    share = mask[top - y0 : bottom - y0, left - x0 : right - x0, None] * np.float32(1 / 255)
    region += (np.asarray(colour, np.float32) - region) * share
