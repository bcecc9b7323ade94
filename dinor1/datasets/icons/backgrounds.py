"""Backgrounds of the icon world: textures, gradients, and surfaces that look like a screen."""

import cv2
import numpy as np


def smooth_field(rng: np.random.Generator, height: int, width: int, cells: int, amplitude: float) -> np.ndarray:
    """Return (H, W) float32 in [-amplitude, amplitude], interpolated between ``cells`` x ``cells`` values."""
    grid = rng.random((cells, cells), dtype=np.float32) * 2 - 1
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR) * np.float32(amplitude)


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Colour texture of two scales with a few lines, (H, W, 3) float32, BGR in [0, 255]."""
    # Add a coarse texture for each channel and a fine one for all channels to a plain colour.
    strength = rng.uniform(0.2, 1.0)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = rng.uniform(40, 215, size=3)
    cells = int(rng.integers(3, 6))
    fine = smooth_field(rng, height, width, int(rng.integers(12, 40)), 26 * strength)
    for channel in range(3):
        canvas[..., channel] += smooth_field(rng, height, width, cells, 70 * strength) + fine
    # Draw the lines.
    for _ in range(rng.integers(0, 6)):
        start = rng.integers(0, [width, height])
        steps = rng.integers(-60, 61, size=(rng.integers(1, 3), 2))
        line = np.cumsum(np.vstack([start, steps]), axis=0).astype(np.int32)
        colour = rng.uniform(0, 255, size=3).tolist()
        cv2.polylines(canvas, [line], isClosed=False, color=colour, thickness=int(rng.integers(1, 3)))
    return canvas


def gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Gradient between two colours in any direction, (H, W, 3) float32, BGR in [0, 255]."""
    first, second = rng.uniform(0, 255, size=(2, 3)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle))
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(np.sin(angle))
    share = np.clip(0.5 + x[None] + y[:, None], 0, 1)[..., None]
    return first + share * (second - first)


def screen(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A plain light or dark surface with up to two panels, (H, W, 3) float32, BGR in [0, 255]."""
    # Draw the surface.
    dark = rng.random() < 0.4
    base = rng.uniform(20, 70) if dark else rng.uniform(215, 252)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = np.clip(base + rng.uniform(-10, 10, size=3), 0, 255)
    # Draw the panels at its sides.
    for _ in range(rng.integers(0, 3)):
        shade = np.clip(base + rng.uniform(-35, 35, size=3), 0, 255)
        edge = int(rng.integers(20, max(21, min(height, width) // 2)))
        side = rng.integers(4)
        part = (canvas[:edge], canvas[-edge:], canvas[:, :edge], canvas[:, -edge:])[side]
        part[:] = shade
    return canvas


def text_line(rng: np.random.Generator, canvas: np.ndarray, x: int, y: int, length: int, thickness: int) -> None:
    """Draw blocks of the size of words, which represent a line of text.

    Args:
        rng: Source of lengths and of the colour.
        canvas: (H, W, 3) float32, which is drawn on.
        x: Left end, in pixels.
        y: Upper edge, in pixels.
        length: Length of the line, in pixels.
        thickness: Height of the letters, in pixels.
    """
    # Leave out a line that does not fit.
    height, width = canvas.shape[:2]
    if not (0 <= y < height - thickness) or x >= width - 4:
        return
    # Choose a shade that contrasts with the background.
    below = canvas[y, min(max(x, 0), width - 1)]
    shade = 60.0 if below.mean() > 128 else 190.0
    # Draw the words.
    end = min(x + length, width - 2)
    while x < end:
        word = int(rng.integers(4, 16))
        canvas[y : y + thickness, max(x, 0) : min(x + word, end)] = shade
        x += word + 3
