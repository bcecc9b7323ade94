"""The files of the icon world: images, annotations in COCO format with LVIS's fields, and a manifest.

``images/<split>/NNNNNN.jpg`` and ``annotations/<split>.json``. A category is a concept, such as "shopping cart", and
has the same id in all files. Every instance of a category that a file lists has a box; the other objects of an image
are clutter, whose concepts no file lists.

The same arguments and the same versions of the packs, the renderer and OpenCV give the same bytes. Each image has its
own random generator, keyed by (seed, split, index).
"""

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from rich.progress import track

from dinor1.datasets.generated_folder import check_complete, read_manifest
from dinor1.datasets.icons import packs
from dinor1.datasets.icons.library import IconLibrary, load_library
from dinor1.datasets.icons.plan import frequency, generator, plan_split
from dinor1.datasets.icons.render import process_pool
from dinor1.datasets.icons.scenes import compose
from dinor1.datasets.icons.splits import SPLITS, leakage
from dinor1.utils.errors import InputError
from dinor1.utils.io import sha256, write_json

# Increase it when any output byte changes, so that a folder of another version is not mistaken for this one.
GENERATOR_VERSION = 1
MANIFEST_NAME = 'icons.json'
_GENERATOR_NAME = 'dinor1 icon world'
_JPEG_QUALITY = 92
_MAX_CLUTTER = 4
_CHUNK = 50


class Preset(NamedTuple):
    """Numbers of images of each split, and the smallest and the largest side of an image in pixels."""

    sizes: Mapping[str, int]
    sides: tuple[int, int]


_EVALUATION = {
    'val_base': 300,
    'test_base': 600,
    'val_novel': 400,
    'test_novel': 800,
    'test_style': 300,
    'support_base': 600,
    'support_val_novel': 300,
    'support_val_novel_same': 300,
    'support_test_novel': 600,
    'support_test_novel_same': 600,
    'support_test_style_same': 300,
}
PRESETS = {
    'small': Preset({'train': 4000, **_EVALUATION}, (160, 192)),
    'full': Preset({'train': 50_000, **_EVALUATION}, (224, 256)),
}


class _Job(NamedTuple):
    """Images of a split that one task draws."""

    split: str
    start: int
    names: list[list[str]]


class _Drawn(NamedTuple):
    """An image that was written: its size, its objects (concept, key of the drawing, box, area), its SHA-256."""

    width: int
    height: int
    objects: list[tuple[str, str, list[int], int]]
    digest: str


def generate(
    out_dir: str | os.PathLike,
    preset: str = 'small',
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    force: bool = False,
    show_progress: bool = False,
    workers: int = 1,
    cache: str | os.PathLike | None = None,
    library: IconLibrary | None = None,
) -> bool:
    """Write the data set to a temporary folder next to ``out_dir``, which is renamed at the end.

    Args:
        out_dir: Folder of the data set.
        preset: ``small`` or ``full``.
        seed: At least 0; the assignment of concepts to splits does not depend on it.
        sizes: Number of images of the splits that differ from the preset.
        force: Replace an icon world that was generated with other arguments, or generate the same one again.
        show_progress: Show progress bars with the remaining time.
        workers: Number of processes; the bytes do not depend on it. With more than one, a script has to call this
            function inside ``if __name__ == '__main__':``, because new processes import the script.
        cache: Folder of rendered drawings; None: a folder in the user's cache folder.
        library: Drawings that are used instead of the installed packs.

    Returns:
        True if the data set was written, False if ``out_dir`` held it already.

    Raises:
        InputError: a package is missing, arguments are out of range, ``out_dir`` holds something else, or it cannot be
            written.
    """
    sizes, sides = check_arguments(preset, seed, sizes, workers)
    versions = dict(library.versions) if library is not None else packs.versions()
    # Follow a link to a folder on another disk: the target of the link is replaced.
    root = Path(out_dir).resolve()
    manifest: dict[str, Any] = {
        'generator': _GENERATOR_NAME,
        'version': GENERATOR_VERSION,
        'arguments': {'preset': preset, 'seed': seed, 'sizes': sizes},
        'packages': versions,
    }
    # Keep a data set that is complete.
    if _holds(root, manifest, force):
        return False
    check_folder(root)
    if library is None:
        library = load_library(cache, workers, show_progress)
    # Write the data set to a temporary folder, and rename the folder.
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
            written = Path(scratch, 'new')
            results = _write_splits(written, library, seed, sizes, sides, workers, show_progress)
            write_json({**manifest, **results}, written / MANIFEST_NAME, indent=1)
            if root.exists():
                root.rename(Path(scratch, 'old'))
            written.rename(root)
    except OSError as error:
        raise InputError(f'{root}: cannot be written ({error.strerror}); choose another folder') from None
    return True


def check_arguments(
    preset: str, seed: int, sizes: Mapping[str, int] | None, workers: int
) -> tuple[dict[str, int], tuple[int, int]]:
    """Number of images of each split, and the sides of images.

    Raises:
        InputError: an argument is out of range.
    """
    # Check preset and splits.
    if preset not in PRESETS:
        raise InputError(f'unknown preset {preset!r}; choose one of {", ".join(PRESETS)}')
    unknown = sorted(set(sizes or {}) - set(SPLITS))
    if unknown:
        raise InputError(f'unknown split {unknown[0]!r}; the icon world has {", ".join(SPLITS)}')
    chosen = {split: int({**PRESETS[preset].sizes, **(sizes or {})}[split]) for split in SPLITS}
    # Check the numbers.
    for split, size in chosen.items():
        if size < 1:
            raise InputError(f'{size} images in {split}; give at least 1')
    if seed < 0:
        raise InputError(f'seed {seed} is negative; give 0 or more')
    if workers < 1:
        raise InputError(f'{workers} workers; give at least 1')
    return chosen, PRESETS[preset].sides


def check_folder(root: Path) -> None:
    """Check that a folder can be created, before the drawings are rendered.

    Raises:
        InputError: the folder cannot be created.
    """
    parent = root.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f'{root}: cannot be written (no permission in {parent}); choose another folder')


def _holds(root: Path, manifest: Mapping[str, Any], force: bool) -> bool:
    """Return whether ``root`` has the data set of this manifest.

    Raises:
        InputError: the folder must not be replaced.
    """
    found = read_manifest(root / MANIFEST_NAME, _GENERATOR_NAME, 'an icon world')
    if found is None or force:
        return False
    # Only force replaces a data set with other arguments.
    for key in ('version', 'arguments', 'packages'):
        if found.get(key) != manifest[key]:
            raise InputError(
                f'{root}: holds an icon world with another {key.removesuffix("s")} '
                f'({_difference(found, manifest, key)}); use --force to replace it or choose another folder'
            )
    # Check that no file is missing.
    check_complete(root, manifest['arguments']['sizes'], '.jpg')
    return True


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any], key: str) -> str:
    """The first difference between two manifests under ``key``, such as ``seed 0 instead of 1``."""
    there, here = found.get(key), wanted[key]
    name = key
    while isinstance(here, Mapping):
        there = there if isinstance(there, Mapping) else {}
        name = next(part for part in (*here, *there) if there.get(part) != here.get(part))
        there, here = there.get(name), here.get(name)
    return f'{name} {there} instead of {here}'


def _write_splits(
    root: Path,
    library: IconLibrary,
    seed: int,
    sizes: Mapping[str, int],
    sides: tuple[int, int],
    workers: int,
    show_progress: bool,
) -> dict[str, Any]:
    """Write images and annotations; returns their entries in the manifest."""
    # Plan and draw the images.
    jobs = []
    for split in SPLITS:
        (root / 'images' / split).mkdir(parents=True)
        plan = list(plan_split(seed, split, sizes[split], library.splits.categories(split)))
        jobs += [_Job(split, start, plan[start : start + _CHUNK]) for start in range(0, len(plan), _CHUNK)]
    drawn: dict[str, list[_Drawn]] = {split: [] for split in SPLITS}
    state = (library, seed, sides, root)
    with process_pool(workers, _set_state, state) as pool:
        if pool is None:
            _set_state(*state)
        parts = pool.map(_draw, jobs) if pool else map(_draw, jobs)
        results = track(parts, 'Drawing the icon world', total=len(jobs), disable=not show_progress)
        for job, part in zip(jobs, results, strict=True):
            drawn[job.split] += part

    # Write the annotations. Frequencies are those of the training images.
    in_images = Counter(name for image in drawn['train'] for name in {name for name, *_ in image.objects})
    instances = Counter(name for image in drawn['train'] for name, *_ in image.objects)
    ids = {name: i for i, name in enumerate(all_concepts(library), start=1)}
    checksums, counts = {}, {}
    for split in SPLITS:
        content = {
            'info': {
                'description': f'{_GENERATOR_NAME}, {split}',
                'version': str(GENERATOR_VERSION),
                'seed': seed,
                'num_images': sizes[split],
            },
            **_records(drawn[split], ids, library.splits.categories(split), federated=split != 'train'),
        }
        for category in content['categories']:
            name = category['name']
            category['image_count'], category['instance_count'] = in_images[name], instances[name]
            category['frequency'] = frequency(in_images[name], sizes['train'])
        path = root / 'annotations' / f'{split}.json'
        write_json(content, path)
        digests = ''.join(image.digest for image in drawn[split])
        checksums[split] = hashlib.sha256((digests + sha256(path)).encode()).hexdigest()
        counts[split] = _count(content)
    # Describe the data set for the manifest.
    groups = {name: library.splits.drawings[name] for name in (*SPLITS, 'clutter_train', 'clutter_test')}
    return {
        'checksums': checksums,
        'statistics': counts,
        'largest_silhouette_iou': leakage(library.splits, library.silhouettes),
        'drawings': {
            group: {name: [library.keys[i] for i in indices] for name, indices in concepts.items()}
            for group, concepts in groups.items()
        },
    }


def all_concepts(library: IconLibrary) -> list[str]:
    """Concepts of all splits in alphabetical order; the id of a category is its position, from 1."""
    splits = library.splits
    return sorted({*splits.train, *splits.val_novel, *splits.test_novel})


def _records(
    drawn: Sequence[_Drawn], ids: Mapping[str, int], listed: Sequence[str], federated: bool
) -> dict[str, list[dict[str, Any]]]:
    """Images, annotations and categories in COCO's form, with LVIS's lists if ``federated``."""
    images, annotations = [], []
    category_ids = sorted(ids[name] for name in listed)
    for image_id, image in enumerate(drawn, start=1):
        record = {'id': image_id, 'file_name': _file_name(image_id), 'width': image.width, 'height': image.height}
        if federated:
            # Labels are exhaustive: a concept without a box is absent.
            present = {ids[name] for name, *_ in image.objects}
            record['neg_category_ids'] = [i for i in category_ids if i not in present]
            record['not_exhaustive_category_ids'] = []
        images.append(record)
        for name, drawing, box, area in image.objects:
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': ids[name],
                    'bbox': box,
                    'area': area,
                    'iscrowd': 0,
                    'drawing': drawing,
                }
            )
    categories = [{'id': ids[name], 'name': name} for name in sorted(listed)]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def _count(content: Mapping[str, Any]) -> dict[str, Any]:
    """Statistics of an annotation file."""
    per_category = Counter(annotation['category_id'] for annotation in content['annotations'])
    instances = [per_category[category['id']] for category in content['categories']]
    frequencies = Counter(category['frequency'] for category in content['categories'])
    return {
        'images': len(content['images']),
        'categories': len(content['categories']),
        'instances': len(content['annotations']),
        'instances_per_category': [min(instances, default=0), max(instances, default=0)],
        'frequencies': {letter: frequencies[letter] for letter in 'rcf'},
    }


# Data that the tasks of a process share; it is set once per process, because it is large.
_STATE: list[Any] = []


def _set_state(library: IconLibrary, seed: int, sides: tuple[int, int], root: Path) -> None:
    _STATE[:] = [library, seed, sides, root]


def _draw(job: _Job) -> list[_Drawn]:
    """Draw and write the images of a job."""
    library, seed, sides, root = _STATE
    drawn = []
    for offset, (names, scene, indices) in enumerate(
        draw_images(library, seed, job.split, sides, job.start, job.names)
    ):
        # Write the image.
        data = cv2.imencode('.jpg', scene.pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
        (root / 'images' / job.split / _file_name(job.start + offset + 1)).write_bytes(data)
        # Record its objects.
        objects = [
            (names[i], library.keys[indices[i]], box, area)
            for i, box, area in zip(scene.objects.tolist(), scene.boxes.tolist(), scene.areas.tolist(), strict=True)
        ]
        height, width = scene.pixels.shape[:2]
        drawn.append(_Drawn(width, height, objects, hashlib.sha256(data).hexdigest()))
    return drawn


def draw_images(
    library: IconLibrary, seed: int, split: str, sides: tuple[int, int], start: int, plans: Sequence[Sequence[str]]
) -> Iterator[tuple[Sequence[str], Any, list[int]]]:
    """Draw images ``start``, ``start + 1``, ... of a split.

    Args:
        library: The drawings.
        seed: Seed of the world.
        split: One of ``SPLITS``.
        sides: Smallest and largest side of an image, in pixels.
        start: Index of the first image, from 0.
        plans: Concepts of the objects of each image.

    Yields:
        Concepts of the objects, the :class:`~dinor1.datasets.icons.scenes.Scene`, and the drawing of each object.
    """
    available = library.splits.drawings[split]
    clutter = library.splits.drawings['clutter_train' if split == 'train' else 'clutter_test']
    clutter_names = list(clutter)
    for index, names in enumerate(plans, start=start):
        rng = generator(seed, split, index)
        # Choose a drawing for each object.
        chosen: list[int] = []
        latest: dict[str, int] = {}
        for name in names:
            # With probability 1/2, an instance has the drawing of the previous instance of its concept in the image.
            drawings = available[name]
            if name not in latest or rng.random() < 0.5:
                latest[name] = drawings[rng.integers(len(drawings))]
            chosen.append(latest[name])
        # Choose the clutter.
        others = []
        if clutter_names:
            for i in rng.integers(len(clutter_names), size=rng.integers(0, _MAX_CLUTTER + 1)).tolist():
                drawings = clutter[clutter_names[i]]
                others.append(drawings[rng.integers(len(drawings))])
        yield names, compose(rng, library.rendered, chosen, others, sides), chosen


def _file_name(image_id: int) -> str:
    return f'{image_id:06d}.jpg'
