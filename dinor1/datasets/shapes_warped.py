"""The shapes world under linear maps that do not occur in training: rotated, sheared and scaled test images.

Boxes are the tight boxes of the warped silhouettes, not those of warped boxes: the latter are up to twice as large, and
the AP of a perfect detector would fall with the angle. All variants, including the identity, have the same canvas,
because the size of the image also affects a detector.
"""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from dinor1.datasets.shapes_world import (
    BASE_CATEGORIES,
    CATEGORY_IDS,
    DEFAULT_SIZES,
    RenderedImage,
    box_of_mask,
    category_records,
    encode_png,
    render_split,
)
from dinor1.utils.errors import InputError
from dinor1.utils.io import write_json

# Background of warp(): the grey of the padding in the shapes world's pipelines.
_BACKGROUND = 114


def _rotation(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


# Objects of the shapes world have any rotation, an aspect ratio of 0.75 to 1.33 and diameters of 32 to 72 pixels. A
# rotation of the image is therefore new only for its frame and textures, a shear or scale also for the objects.
VARIANTS: dict[str, np.ndarray] = {
    'identity': np.eye(2),
    'rotation-30': _rotation(30),
    'rotation-45': _rotation(45),
    'shear-0.25': np.array([[1, 0.25], [0, 1]]),
    'shear-0.5': np.array([[1, 0.5], [0, 1]]),
    'scale-0.5': 0.5 * np.eye(2),
    'scale-0.7': 0.7 * np.eye(2),
    'scale-1.5': 1.5 * np.eye(2),
}
CANVAS = 256
# Objects with a smaller visible area, in pixels, are not annotated.
_LEAST_AREA = 16


def warp(image: RenderedImage, matrix: np.ndarray, canvas: int = CANVAS) -> RenderedImage:
    """Apply a linear map about the centre of an image, and centre the result on a square canvas.

    Args:
        image: Image and silhouettes.
        matrix: (2, 2), invertible, acting on (x, y) in pixels with y downwards.
        canvas: Side of the result in pixels.

    Returns:
        Image (canvas, canvas, 3), grey outside the original, and masks (N, canvas, canvas).

    Raises:
        InputError: the matrix is singular, or the image would leave the canvas.
    """
    # Check that the warped image fits.
    if matrix.shape != (2, 2) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-6:
        raise InputError(f'an image is warped by an invertible 2 x 2 matrix, got {matrix.tolist()}')
    height, width = image.pixels.shape[:2]
    reach = np.abs(matrix) @ [width / 2, height / 2]
    if reach.max() > canvas / 2:
        raise InputError(
            f'an image of {width} x {height} needs a canvas of {int(np.ceil(2 * reach.max()))} pixels under '
            f'{matrix.tolist()}, got {canvas}'
        )
    # Shift the centre by whole pixels, so that the identity does not interpolate.
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    target = centre + np.floor((canvas - 1) / 2 - centre)
    affine = np.column_stack([matrix, target - matrix @ centre])

    def move(pixels: np.ndarray, outside: int) -> np.ndarray:
        # Blur before shrinking: OpenCV does not average, and stripes would alias.
        factor = np.sqrt(abs(np.linalg.det(matrix)))
        if factor < 1:
            pixels = cv2.GaussianBlur(pixels, (0, 0), 0.5 * np.sqrt(1 / factor**2 - 1))
        border = (outside,) * 3
        return cv2.warpAffine(pixels, affine, (canvas, canvas), borderMode=cv2.BORDER_CONSTANT, borderValue=border)

    pixels = move(image.pixels, _BACKGROUND)
    masks = [move(mask.astype(np.float32), 0) > 0.5 for mask in image.masks]
    return RenderedImage(pixels, np.array(masks, dtype=bool).reshape(-1, canvas, canvas))


def generate_warped(
    out_dir: str | Path,
    variants: Iterable[str] = tuple(VARIANTS),
    split: str = 'val_base',
    size: int = DEFAULT_SIZES['val_base'],
    seed: int = 0,
    show_progress: bool = False,
) -> None:
    """Write warped copies of a split: ``annotations/VARIANT.json``, ``images/VARIANT/``.

    Args:
        out_dir: Folder to create.
        variants: Keys of :data:`VARIANTS`.
        split: Split of the shapes world, ``train`` or ``val_base``.
        size: Number of its images to warp, at least 1.
        seed: Seed of the shapes world.
        show_progress: Show a progress bar.

    Raises:
        InputError: an unknown variant or split, no image, or the folder exists.
    """
    # Check the arguments.
    root, variants = Path(out_dir), list(variants)
    unknown = sorted(set(variants) - set(VARIANTS))
    if unknown or not variants:
        raise InputError(f'unknown variant {unknown[:1] or "(none)"}; choose from {", ".join(VARIANTS)}')
    if split not in ('train', 'val_base'):
        raise InputError(f'split must be train or val_base, got {split!r}')
    if size < 1:
        raise InputError(f'{size} images in {split}; give at least 1')
    if root.exists():
        raise InputError(f'{root}: exists; choose another folder')
    # Write to a temporary folder, and rename it when it is complete.
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
        written = Path(scratch, 'new')
        contents = {name: _empty(name, split, seed) for name in variants}
        for name in variants:
            (written / 'images' / name).mkdir(parents=True)
        # Render each image once, and warp it for every variant.
        images = track(render_split(seed, split, size), 'Warping', total=size, disable=not show_progress)
        for categories, image in images:
            for name in variants:
                warped = warp(image, VARIANTS[name])
                _add(contents[name], written / 'images' / name, categories, warped)
        for name, content in contents.items():
            write_json(content, written / 'annotations' / f'{name}.json')
        written.rename(root)


def _empty(variant: str, split: str, seed: int) -> dict:
    note = f'shapes world, {split}, seed {seed}, under {VARIANTS[variant].round(6).tolist()}'
    return dict(info=dict(description=note), images=[], annotations=[], categories=category_records(BASE_CATEGORIES))


def _add(content: dict, folder: Path, categories: Sequence[str], image: RenderedImage) -> None:
    # Write the image.
    height, width = image.pixels.shape[:2]
    image_id = len(content['images']) + 1
    file_name = f'{image_id:06d}.png'
    (folder / file_name).write_bytes(encode_png(image.pixels))
    content['images'].append(dict(id=image_id, file_name=file_name, width=width, height=height))
    # Annotate its objects, except small remains.
    for category, mask in zip(categories, image.masks, strict=True):
        area = int(mask.sum())
        if area >= _LEAST_AREA:
            content['annotations'].append(
                dict(
                    id=len(content['annotations']) + 1,
                    image_id=image_id,
                    category_id=CATEGORY_IDS[category],
                    bbox=box_of_mask(mask),
                    area=area,
                    iscrowd=0,
                )
            )
