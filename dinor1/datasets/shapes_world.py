"""The shapes world: a generated detection data set whose 16 categories are 4 shapes x 4 fill patterns.

It replaces photographs where nothing can be downloaded. A category is named by its fill and its shape
("striped circle"). Colour, size, aspect ratio, rotation, pattern direction and period, clutter and mild occlusion
vary independently of it. Four combinations, one per shape and one per fill, are held out: a detector
trained on the other twelve has seen every shape and every fill, but never these pairs.

The same arguments give the same bytes on every machine. Each image has its own random generator, keyed by
(seed, split, index); drawing is integer arithmetic (angles are whole degrees, cosines come from a rounded
table), enlargement uses OpenCV's bit-exact interpolation, and :func:`encode_png` stores the pixels
uncompressed, because the output of a compressor depends on the version of its library.

Lengths are pixels, boxes in the annotation files are COCO's ``[x, y, width, height]``, images are BGR.
"""

import math
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from rich.progress import track

from dinor1.datasets.generated_folder import check_complete, read_manifest
from dinor1.utils.errors import InputError
from dinor1.utils.io import write_json

SHAPES = ('circle', 'square', 'triangle', 'cross')
FILLS = ('solid', 'striped', 'checkered', 'outlined')
CATEGORIES = tuple(f'{fill} {shape}' for shape in SHAPES for fill in FILLS)
NOVEL_CATEGORIES = ('striped circle', 'checkered square', 'solid triangle', 'outlined cross')
BASE_CATEGORIES = tuple(name for name in CATEGORIES if name not in NOVEL_CATEGORIES)
CATEGORY_IDS = {name: i for i, name in enumerate(CATEGORIES, start=1)}

DEFAULT_SIZES = {'train': 2000, 'val_base': 200, 'val_novel': 200, 'support_novel': 64}
NOVEL_SPLITS = ('val_novel', 'support_novel')

# Increase it when any output byte changes, so that folders of older versions are not reused.
GENERATOR_VERSION = 3
MANIFEST_NAME = 'shapes.json'
_GENERATOR_NAME = 'dinor1 shapes world'

IMAGE_SIDES = (128, 160)
DIAMETERS = (32, 72)
MAX_OBJECTS = 6
MAX_OVERLAP_PERCENT = 25
MIN_INSIDE_PERCENT = 88
MIN_CONTRAST = 150

# A shape is sampled at _GRID x _GRID points per pixel; its outline is defined for a radius of _UNIT.
_GRID = 4
_UNIT = 1024
_COS = np.array([round(16384 * math.cos(math.radians(degree))) for degree in range(360)], dtype=np.int32)


class RenderedImage(NamedTuple):
    """An image and the silhouettes of its objects in drawing order: later ones cover earlier ones.

    Attributes:
        pixels: (H, W, 3) uint8, BGR.
        masks: (N, H, W) bool; True in the part of each object inside the image, even where a later object covers it.
    """

    pixels: np.ndarray
    masks: np.ndarray


class _Sprite(NamedTuple):
    """An object without colours, as the number of the ``_GRID ** 2`` samples of each pixel that it covers.

    Attributes:
        coverage: (n, n) int32, samples of the whole object.
        ink: (n, n) int32, samples in its first colour; the others have the second colour.
    """

    coverage: np.ndarray
    ink: np.ndarray


def render_image(rng: np.random.Generator, categories: Sequence[str]) -> RenderedImage:
    """Draw one image with one object for each entry of ``categories``; entries may repeat.

    Args:
        rng: Source of everything that varies, including the size of the image; the same state gives the same image.
        categories: At most ``MAX_OBJECTS`` of ``CATEGORIES``; an empty list gives only the background.

    Raises:
        ValueError: an unknown category, or too many objects.
    """
    if len(categories) > MAX_OBJECTS:
        raise ValueError(f'{len(categories)} objects in one image; at most {MAX_OBJECTS} fit')
    unknown = sorted(set(categories) - set(CATEGORIES))
    if unknown:
        raise ValueError(f'unknown category {unknown[0]!r}; expected one of {", ".join(CATEGORIES)}')
    # Draw the background.
    height, width = rng.integers(*IMAGE_SIDES, size=2, endpoint=True).tolist()
    canvas = _draw_background(rng, height, width)
    # Light and noise affect the objects too. They are drawn from `rng` before the objects, so that the objects
    # do not change the background.
    light = _smooth_field(rng, height, width, cells=3, amplitude=24)[..., None]
    noise = rng.integers(-9, 9, size=(height, width, 3), dtype=np.int8, endpoint=True)

    # Place and paint the objects.
    sprites = _lay_out(rng, categories, height, width)
    masks = np.zeros((len(sprites), height, width), dtype=bool)
    for mask, sprite in zip(masks, sprites, strict=True):
        mask[:] = _silhouette(sprite)
        _paint(rng, canvas, sprite)
    return RenderedImage(np.clip(canvas + light + noise, 0, 255).astype(np.uint8), masks)


def render_split(seed: int, split: str, size: int) -> Iterator[tuple[list[str], RenderedImage]]:
    """Yield the categories and the pixels of each image of a split, as :func:`generate` writes them."""
    for index, categories in enumerate(plan_split(seed, split, size)):
        yield categories, render_image(_generator(seed, split, index), categories)


def box_of_mask(mask: np.ndarray) -> list[int]:
    """Return the tight box ``[x, y, width, height]`` around the True pixels of an (H, W) mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def category_records(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the entries of COCO's ``categories``; the supercategory is the shape."""
    return [{'id': CATEGORY_IDS[name], 'name': name, 'supercategory': name.split()[1]} for name in names]


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode an (H, W, 3) uint8 BGR image as a PNG file with stored (uncompressed) deflate blocks.

    Stored blocks are the same on every machine; compressed ones differ between zlib, zlib-ng and their
    versions. Noise compresses badly anyway: the files are 1.4 times as large as compressed ones, and are read
    in a fifth of the time.
    """
    # Each row starts with its filter type, 0 = none.
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)
    rows[:, 1:] = pixels[:, :, ::-1].reshape(height, -1)
    # Wrap the rows into a zlib stream of stored blocks.
    raw = rows.tobytes()
    blocks = [raw[i : i + 0xFFFF] for i in range(0, len(raw), 0xFFFF)]
    stream = [b'\x78\x01']
    for i, block in enumerate(blocks, start=1):
        stream += [struct.pack('<BHH', i == len(blocks), len(block), len(block) ^ 0xFFFF), block]
    stream.append(struct.pack('>I', zlib.adler32(raw)))
    # Assemble the chunks of the file: 8 bits, RGB, not interlaced.
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = ((b'IHDR', header), (b'IDAT', b''.join(stream)), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)) for kind, data in chunks
    )


def generate(
    out_dir: str | os.PathLike,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    force: bool = False,
    show_progress: bool = False,
) -> bool:
    """Write the data set: ``images/<split>/NNNNNN.png`` and ``annotations/<split>.json`` in COCO format.

    ``train`` and ``val_base`` show and list base categories only. An image of ``val_novel`` or
    ``support_novel`` shows one to three novel objects and up to three base objects; only the novel ones are
    annotated and listed, and the base objects are distractors. ``support_novel`` provides the exemplars of novel
    categories. A box surrounds the whole object inside the image, even where a later object
    covers it. Image ``i`` of a split does not depend on the number of images. Everything is written beside
    ``out_dir`` and renamed at the end.

    Args:
        out_dir: Folder of the data set.
        seed: At least 0.
        sizes: Number of images of the splits that differ from ``DEFAULT_SIZES``.
        force: Replace a shapes world that was generated with other arguments, or generate the same one again.
        show_progress: Show a progress bar with the remaining time.

    Returns:
        True if the data set was written, False if ``out_dir`` has it already.

    Raises:
        InputError: arguments out of range, ``out_dir`` has other files, or it cannot be written.
    """
    # Check the arguments.
    sizes = {**DEFAULT_SIZES, **(sizes or {})}
    unknown = sorted(set(sizes) - set(DEFAULT_SIZES))
    if unknown:
        raise InputError(f'unknown split {unknown[0]!r}; the shapes world has {", ".join(DEFAULT_SIZES)}')
    for split, size in sizes.items():
        if size < 1:
            raise InputError(f'{size} images in {split}; give at least 1')
    if seed < 0:
        raise InputError(f'seed {seed} is negative; give 0 or more')

    # Replace the target of a symbolic link, not the link.
    root = Path(out_dir).resolve()
    arguments = {'seed': seed, 'sizes': sizes}
    manifest = {'generator': _GENERATOR_NAME, 'version': GENERATOR_VERSION, 'arguments': arguments}
    if _holds(root, manifest, force):
        return False
    # Write to a temporary folder, and rename it when it is complete.
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
            written = Path(scratch, 'new')
            _write_splits(written, seed, sizes, show_progress)
            write_json(manifest, written / MANIFEST_NAME, indent=1)
            if root.exists():
                root.rename(Path(scratch, 'old'))
            written.rename(root)
    except OSError as error:
        raise InputError(f'{root}: cannot be written ({error.strerror}); choose another folder') from None
    return True


def _holds(root: Path, manifest: Mapping[str, Any], force: bool) -> bool:
    """Return whether ``root`` has the data set of this manifest.

    Raises:
        InputError: the folder must not be replaced.
    """
    # An absent or empty folder may be written to, and another shapes world replaced with force.
    found = read_manifest(root / MANIFEST_NAME, _GENERATOR_NAME, 'a shapes world')
    if found is None or force:
        return False
    # The data set must have the same arguments, and all its files.
    if found != manifest:
        raise InputError(
            f'{root}: holds a shapes world of version {found.get("version")} with {found.get("arguments")}; '
            'use --force to replace it or choose another folder'
        )
    check_complete(root, manifest['arguments']['sizes'], '.png')
    return True


def _write_splits(root: Path, seed: int, sizes: Mapping[str, int], show_progress: bool) -> None:
    # Start an annotation file for each split.
    contents = {}
    for split, size in sizes.items():
        (root / 'images' / split).mkdir(parents=True)
        novel = split in NOVEL_SPLITS
        note = 'base objects are not annotated' if novel else 'without novel objects'
        listed = NOVEL_CATEGORIES if novel else BASE_CATEGORIES
        contents[split] = {
            'info': {
                'description': f'{_GENERATOR_NAME}, {split}: {note}',
                'version': str(GENERATOR_VERSION),
                'seed': seed,
                'num_images': size,
            },
            'images': [],
            'annotations': [],
            'categories': category_records(listed),
        }
    # Draw the images of all splits under one progress bar.
    jobs = [
        (split, index, categories)
        for split, size in sizes.items()
        for index, categories in enumerate(plan_split(seed, split, size))
    ]
    for split, index, categories in track(jobs, 'Drawing the shapes world', disable=not show_progress):
        pixels, masks = render_image(_generator(seed, split, index), categories)
        file_name = f'{index + 1:06d}.png'
        (root / 'images' / split / file_name).write_bytes(encode_png(pixels))
        _annotate(contents[split], file_name, categories, masks)
    for split, content in contents.items():
        write_json(content, root / 'annotations' / f'{split}.json')


def _annotate(content: dict[str, Any], file_name: str, categories: Sequence[str], masks: np.ndarray) -> None:
    """Append an image and its objects of the categories that ``content`` lists."""
    # Append the image.
    _, height, width = masks.shape
    image_id = len(content['images']) + 1
    content['images'].append({'id': image_id, 'file_name': file_name, 'width': width, 'height': height})
    # Append the boxes of listed categories.
    listed = {category['name'] for category in content['categories']}
    for name, mask in zip(categories, masks, strict=True):
        if name in listed:
            content['annotations'].append(
                {
                    'id': len(content['annotations']) + 1,
                    'image_id': image_id,
                    'category_id': CATEGORY_IDS[name],
                    'bbox': box_of_mask(mask),
                    'area': int(mask.sum()),
                    'iscrowd': 0,
                }
            )


def _generator(seed: int, split: str, *index: int) -> np.random.Generator:
    """Return the random generator of one image, or, without ``index``, that of the categories of the split."""
    key = (tuple(DEFAULT_SIZES).index(split), *index)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def plan_split(seed: int, split: str, size: int) -> Iterator[list[str]]:
    """Yield the categories of each image of a split, as :func:`render_split` draws them.

    Within a split all categories occur equally often, up to a few objects.
    """
    rng = _generator(seed, split)
    base, novel = _deal(rng, BASE_CATEGORIES), _deal(rng, NOVEL_CATEGORIES)
    for _ in range(size):
        if split in NOVEL_SPLITS:
            names = [next(novel) for _ in range(rng.integers(1, 3, endpoint=True))]
            names += [next(base) for _ in range(rng.integers(0, 3, endpoint=True))]
            # Shuffle, so that base objects do not always cover novel ones.
            yield [names[i] for i in rng.permutation(len(names))]
        else:
            yield [next(base) for _ in range(rng.integers(1, MAX_OBJECTS, endpoint=True))]


def _deal(rng: np.random.Generator, names: Sequence[str]) -> Iterator[str]:
    """Yield names endlessly from shuffled decks with four of each, so that a name can repeat within an image."""
    while True:
        deck = 4 * list(names)
        for i in rng.permutation(len(deck)):
            yield deck[i]


def _draw_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return (H, W, 3) int32: colour texture of two scales, faint patches and open lines."""
    # Colour texture, coarse and fine.
    canvas = 128 + np.dstack([_smooth_field(rng, height, width, cells=4, amplitude=70) for _ in range(3)])
    canvas += np.dstack([_smooth_field(rng, height, width, cells=14, amplitude=22) for _ in range(3)])
    # Faint patches.
    for _ in range(rng.integers(1, 4)):
        field = _smooth_field(rng, height, width, cells=6, amplitude=100)
        canvas[field > 48] += rng.integers(-30, 30, size=3, dtype=np.int32, endpoint=True)
    # Open lines.
    for _ in range(rng.integers(2, 9)):
        start = rng.integers(0, [width, height])
        steps = rng.integers(-30, 30, size=(rng.integers(1, 3), 2), endpoint=True)
        line = np.cumsum(np.vstack([start, steps]), axis=0).astype(np.int32)
        colour = rng.integers(0, 255, size=3, endpoint=True).tolist()
        cv2.polylines(canvas, [line], isClosed=False, color=colour, thickness=int(rng.integers(1, 3)))
    return canvas


def _smooth_field(rng: np.random.Generator, height: int, width: int, cells: int, amplitude: int) -> np.ndarray:
    """Return (H, W) int32 in [-amplitude, amplitude], interpolated between ``cells`` x ``cells`` values."""
    grid = rng.integers(0, 2 * amplitude, size=(cells, cells), dtype=np.uint8, endpoint=True)
    field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    return field.astype(np.int32) - amplitude


def _lay_out(rng: np.random.Generator, categories: Sequence[str], height: int, width: int) -> list[_Sprite]:
    """Draw a size and a position for every object; returns sprites of the size of the image, (H, W)."""
    # Start again until every object has a position.
    while True:
        sprites: list[_Sprite] = []
        areas = np.zeros(0, dtype=np.int64)
        in_sight = np.zeros((height, width), dtype=np.int64)
        for name in categories:
            sprite = _find_position(rng, name, in_sight, areas)
            if sprite is None:
                break
            mask = _silhouette(sprite)
            sprites.append(sprite)
            areas = np.append(areas, mask.sum())
            in_sight[mask] = len(sprites)
        else:
            return sprites


def _find_position(rng: np.random.Generator, name: str, in_sight: np.ndarray, areas: np.ndarray) -> _Sprite | None:
    """Try sizes and positions for one more object, on top of the earlier ones.

    Args:
        rng: Source of sizes and positions.
        name: Category.
        in_sight: (H, W), number of the earlier object that is visible at a pixel, from 1; 0 = background.
        areas: (N,) areas of the earlier objects, in pixels.

    Returns:
        Sprite of the size of the image; None if the object covers too much of the others everywhere.
    """
    # Try several sizes, each at several positions.
    height, width = in_sight.shape
    smallest, largest = DIAMETERS
    for attempt in range(12):
        # Reduce the largest size with each attempt, so that crowded images get smaller objects.
        sprite = _draw_sprite(rng, name, int(rng.integers(smallest, largest - 3 * attempt, endpoint=True)))
        sprite_area = int(_silhouette(sprite).sum())
        side = len(sprite.coverage)
        farthest = [width - 3 * side // 4, height - 3 * side // 4]
        for x, y in rng.integers(-side // 4, farthest, size=(6, 2)).tolist():
            moved = _Sprite(*(_move(samples, x, y, height, width) for samples in sprite))
            mask = _silhouette(moved)
            # Check how much of the object is inside the image, and how much it covers of the others.
            left_in_sight = np.bincount(in_sight[~mask], minlength=len(areas) + 1)[1:]
            if (
                100 * int(mask.sum()) >= MIN_INSIDE_PERCENT * sprite_area
                and 100 * np.count_nonzero(in_sight[mask]) <= MAX_OVERLAP_PERCENT * sprite_area
                and (100 * left_in_sight >= (100 - MAX_OVERLAP_PERCENT) * areas).all()
            ):
                return moved
    return None


def _draw_sprite(rng: np.random.Generator, name: str, diameter: int) -> _Sprite:
    """Draw one object of about ``diameter`` pixels with random aspect ratio, rotation and pattern, (n, n)."""
    fill, shape = name.split()
    stretch = int(rng.integers(-14, 14, endpoint=True))
    rotation, direction = rng.integers(0, 360, size=2).tolist()
    offset = rng.integers(0, 4096, size=2).tolist()
    # Draw the lengths of all fills, in 1/128 pixel, so that later random numbers do not depend on the fill.
    period = _draw_length(rng, 128 * 6, 128 * diameter // 5, 128 * diameter // 3)
    cell = _draw_length(rng, 128 * 4, 128 * diameter // 7, 128 * diameter // 5)
    rim = _draw_length(rng, 128 * 3, 128 * diameter // 11, 128 * diameter // 8)

    # Sample points relative to the centre, in 1/8 pixel, which is half the spacing of the grid. No shape reaches
    # beyond 5/8 of the diameter from its centre.
    side = 2 * (diameter * 5 // 8 + 3)
    points = 2 * np.arange(_GRID * side, dtype=np.int32) + 1 - _GRID * side
    u, v = _rotate(points[None, :], points[:, None], rotation)
    radius = 64 * diameter
    depth = _depth_inside(
        shape, u * _UNIT // (radius * (100 + stretch) // 100), v * _UNIT // (radius * (100 - stretch) // 100)
    )
    # Fill the shape along and across a random direction.
    along, across = _rotate(points[None, :], points[:, None], direction)
    along, across = along + offset[0], across + offset[1]
    if fill == 'solid':
        is_ink = np.ones_like(depth, dtype=bool)
    elif fill == 'striped':
        is_ink = 2 * along // period % 2 == 0
    elif fill == 'checkered':
        is_ink = (along // cell + across // cell) % 2 == 0
    else:
        is_ink = depth < rim * _UNIT // radius
    is_object = depth >= 0
    return _Sprite(_count_samples(is_object), _count_samples(is_object & is_ink))


def _draw_length(rng: np.random.Generator, least: int, low: int, high: int) -> int:
    """Draw an integer from [low, high) that is at least ``least``."""
    low = max(least, low)
    return int(rng.integers(low, max(low + 1, high)))


def _rotate(x: np.ndarray, y: np.ndarray, degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotate points given in 1/8 pixel; the result is in 1/128 pixel."""
    cos, sin = _COS[degrees], _COS[degrees - 90]
    return (x * cos + y * sin) >> 10, (y * cos - x * sin) >> 10


def _depth_inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return how far points lie inside a shape, negative outside; int32, in units of radius / _UNIT."""
    if shape == 'circle':
        # IEEE 754 defines every bit of a square root, so this is equal on all machines.
        return 940 - np.sqrt(x * x + y * y).astype(np.int32)
    x, y_signed, y = np.abs(x), y, np.abs(y)
    if shape == 'square':
        return 820 - np.maximum(x, y)
    if shape == 'triangle':
        # 887 / 1024 is the cosine of 30 degrees; abs(x) merges the two slanted sides.
        return 560 - np.maximum(y_signed, (887 * x - 512 * y_signed) >> 10)
    return np.maximum(np.minimum(390 - x, 1000 - y), np.minimum(1000 - x, 390 - y))


def _count_samples(mask: np.ndarray) -> np.ndarray:
    """Count the True samples of each pixel: (_GRID * n, _GRID * n) bool to (n, n) int32."""
    n = len(mask) // _GRID
    return mask.reshape(n, _GRID, n, _GRID).sum(axis=1, dtype=np.int32).sum(axis=2, dtype=np.int32)


def _silhouette(sprite: _Sprite) -> np.ndarray:
    """Return an (n, n) bool mask; True where an object covers at least half of the pixel."""
    return 2 * sprite.coverage >= _GRID * _GRID


def _move(samples: np.ndarray, x: int, y: int, height: int, width: int) -> np.ndarray:
    """Put an (n, n) array at column ``x`` and row ``y`` of an (H, W) array of zeros, and crop it there."""
    moved = np.zeros((height, width), dtype=samples.dtype)
    n = len(samples)
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + n, height), min(x + n, width)
    moved[top:bottom, left:right] = samples[top - y : bottom - y, left - x : right - x]
    return moved


def _paint(rng: np.random.Generator, canvas: np.ndarray, sprite: _Sprite) -> None:
    """Paint an object in two random colours that differ from each other and from the background."""
    # Draw the colours.
    touched = sprite.coverage > 0
    before = canvas[touched]
    behind = before.sum(axis=0) // len(before)
    ink = _draw_colour(rng, [behind])
    paper = _draw_colour(rng, [behind, ink])
    # Mix them with the background in pixels that are partly covered.
    coverage, in_ink = sprite.coverage[touched][:, None], sprite.ink[touched][:, None]
    samples = _GRID * _GRID
    canvas[touched] = ((samples - coverage) * before + in_ink * ink + (coverage - in_ink) * paper) // samples


def _draw_colour(rng: np.random.Generator, others: Sequence[np.ndarray]) -> np.ndarray:
    """Draw a (3,) BGR colour, 0 to 255, that is far from each of ``others``."""
    while True:
        colour = rng.integers(0, 255, size=3, dtype=np.int32, endpoint=True)
        if all(np.abs(colour - other).sum() >= MIN_CONTRAST for other in others):
            return colour
