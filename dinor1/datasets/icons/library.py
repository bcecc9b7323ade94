"""The rendered drawings of the icon world, and their assignment to splits."""

import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinor1.datasets.icons import packs
from dinor1.datasets.icons.clusters import silhouettes, similar_pairs
from dinor1.datasets.icons.concepts import group_by_concept, head_words
from dinor1.datasets.icons.packs import Drawing
from dinor1.datasets.icons.render import DrawingCache, Rendered
from dinor1.datasets.icons.splits import MIN_DRAWINGS, ConceptSplits, SplitSizes, shuffled, split_concepts

# The pack whose drawings only ``test_style`` shows.
STYLE_PACK = 'lucide'
# Clutter is taken from concepts with fewer drawings. This number of drawings is rendered for each clutter concept.
_CLUTTER_CANDIDATES = 5


@dataclass(frozen=True)
class IconLibrary:
    """Rendered drawings and splits.

    Attributes:
        keys: N keys of drawings, such as ``phosphor/bold/bicycle``.
        rendered: Pixels of the drawings.
        silhouettes: (N, P) bool, True = covered.
        splits: Concepts and drawings of each split.
        versions: Versions of the packs and of the renderer.
    """

    keys: tuple[str, ...]
    rendered: Rendered
    silhouettes: np.ndarray
    splits: ConceptSplits
    versions: Mapping[str, str]


def cache_folder() -> Path:
    """Folder of rendered drawings: ``dinor1/icons`` in the user's cache folder (``XDG_CACHE_HOME``)."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache', 'dinor1', 'icons')


def load_library(cache: str | os.PathLike | None = None, workers: int = 1, show_progress: bool = False) -> IconLibrary:
    """Read and render the installed packs.

    Args:
        cache: Folder of rendered drawings; None: :func:`cache_folder`.
        workers: Number of processes.
        show_progress: Show a progress bar.

    Raises:
        InputError: a package is missing or broken.
    """
    found = packs.versions()
    drawings, brands = packs.read_packs()
    return build_library(
        drawings,
        brands,
        found,
        cache_folder() if cache is None else cache,
        workers=workers,
        show_progress=show_progress,
    )


def build_library(
    drawings: Sequence[Drawing],
    brands: Collection[str] = (),
    versions: Mapping[str, str] | None = None,
    cache: str | os.PathLike | None = None,
    sizes: SplitSizes | None = None,
    workers: int = 1,
    show_progress: bool = False,
) -> IconLibrary:
    """Render drawings and assign their concepts to splits.

    Args:
        drawings: Drawings with unique keys.
        brands: Names that are logos.
        versions: Versions of packs and renderer, for the cache and the manifest.
        cache: Folder of rendered drawings; None: drawings are not stored.
        sizes: Numbers of concepts.
        workers: Number of processes.
        show_progress: Show a progress bar.

    Raises:
        InputError: a drawing is not valid, or there are too few concepts.
    """
    sizes, versions = sizes or SplitSizes(), dict(versions or {})
    # Separate concepts with enough drawings from those that can only be clutter.
    groups = group_by_concept(drawings, brands)
    candidates, few = {}, {}
    for concept, members in groups.items():
        count = sum(drawing.pack != STYLE_PACK for drawing in members)
        if count >= MIN_DRAWINGS:
            candidates[concept] = members
        elif count:
            few[concept] = [drawing for drawing in members if drawing.pack != STYLE_PACK]
    # Choose clutter that shares no head word with a concept.
    heads = {head for concept in candidates for head in head_words(concept)}
    clutter_names = sorted((name for name in few if not heads & head_words(name)), key=shuffled)
    clutter_names = clutter_names[: _CLUTTER_CANDIDATES * sizes.clutter]

    # Render only the drawings that may be used.
    used = [(concept, drawing) for concept, members in candidates.items() for drawing in members]
    used += [(concept, drawing) for concept in clutter_names for drawing in few[concept]]
    rendered = DrawingCache(cache, versions).render([drawing for _, drawing in used], workers, show_progress)
    # Leave out drawings without content.
    shapes = silhouettes(rendered.opacity)
    visible = shapes.any(axis=1)
    members: dict[str, list[int]] = defaultdict(list)
    style: dict[str, list[int]] = defaultdict(list)
    for index, (concept, drawing) in enumerate(used):
        if visible[index]:
            (style if drawing.pack == STYLE_PACK else members)[concept].append(index)
    # Keep the concepts that still have enough drawings, and assign them to splits.
    concepts = {name: members[name] for name in candidates if len(members[name]) >= MIN_DRAWINGS}
    clutter = {name: members[name] for name in clutter_names if members[name]}

    neighbours = find_neighbours({**concepts, **clutter}, shapes)
    splits = split_concepts(concepts, style, clutter, neighbours, shapes, sizes)
    return IconLibrary(tuple(drawing.key for _, drawing in used), rendered, shapes, splits, versions)


def find_neighbours(concepts: Mapping[str, Sequence[int]], shapes: np.ndarray) -> dict[str, set[str]]:
    """Concepts with a similar silhouette or a shared head word.

    Args:
        concepts: Concept -> indices of drawings.
        shapes: (N, P) bool, silhouettes.

    Returns:
        Concept -> its neighbours, without itself.
    """
    neighbours: dict[str, set[str]] = {concept: set() for concept in concepts}
    # Add concepts with similar silhouettes.
    rows = np.array([index for indices in concepts.values() for index in indices], dtype=np.int64)
    owners = [concept for concept, indices in concepts.items() for _ in indices]
    for i, j in similar_pairs(shapes[rows]).tolist():
        neighbours[owners[i]].add(owners[j])
        neighbours[owners[j]].add(owners[i])
    # Add concepts with a common head word.
    by_head: dict[str, set[str]] = defaultdict(set)
    for concept in concepts:
        for head in head_words(concept):
            by_head[head].add(concept)
    for concept in concepts:
        for head in head_words(concept):
            neighbours[concept] |= by_head[head]
        neighbours[concept].discard(concept)
    return neighbours
