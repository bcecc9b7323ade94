"""Assignment of concepts and of their drawings to splits.

The assignment depends only on the packs, not on the seed of a world: worlds of different seeds have the same novel
categories.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dinor1.datasets.icons.clusters import MAX_IOU, cluster, pairwise_iou
from dinor1.utils.errors import InputError

SPLITS = (
    'train',
    'val_base',
    'test_base',
    'val_novel',
    'test_novel',
    'test_style',
    'support_base',
    'support_val_novel',
    'support_val_novel_same',
    'support_test_novel',
    'support_test_novel_same',
    'support_test_style_same',
)
# A detector cannot distinguish silhouettes with at least this intersection over union. At most one of two such concepts
# is trained, because an object could have either name.
SAME_IOU = 0.95
# Drawings of the pack for test_style are left out if their intersection over union with a training drawing reaches
# this.
STYLE_IOU = 0.9
# Minimum number of drawings of a novel concept, and of a known one.
MIN_NOVEL_DRAWINGS = 4
MIN_DRAWINGS = 2
# Maximum number of known concepts with the same first word: packs have hundreds of "account ..." and "folder ...".
MAX_PER_WORD = 8
# A novel concept excludes its neighbours from the known concepts. Concepts that test_style could use have this
# additional cost, so that few of them become novel.
_STYLE_COST = 10


@dataclass(frozen=True)
class SplitSizes:
    """Numbers of concepts: for training, novel concepts for validation and test, and clutter."""

    train: int = 1200
    val_novel: int = 150
    test_novel: int = 300
    clutter: int = 400


@dataclass(frozen=True)
class ConceptSplits:
    """Concepts of each group, and the drawings that each split may show.

    Attributes:
        train: Known concepts, from the most to the least frequent one.
        val_novel: Unseen concepts for validation.
        test_novel: Unseen concepts for the test.
        style: Known concepts of which the pack for ``test_style`` has drawings.
        clutter: Concepts that are never annotated, of training and of all other splits.
        drawings: Split, ``clutter_train`` or ``clutter_test`` -> concept -> indices of drawings.
    """

    train: tuple[str, ...]
    val_novel: tuple[str, ...]
    test_novel: tuple[str, ...]
    style: tuple[str, ...]
    clutter: tuple[tuple[str, ...], tuple[str, ...]]
    drawings: Mapping[str, Mapping[str, tuple[int, ...]]]

    def categories(self, split: str) -> tuple[str, ...]:
        """Concepts that a split annotates."""
        if split in ('train', 'val_base', 'test_base', 'support_base'):
            return self.train
        if 'style' in split:
            return self.style
        return self.val_novel if 'val_novel' in split else self.test_novel


def split_concepts(
    concepts: Mapping[str, Sequence[int]],
    style_drawings: Mapping[str, Sequence[int]],
    clutter: Mapping[str, Sequence[int]],
    neighbours: Mapping[str, Iterable[str]],
    silhouettes: np.ndarray,
    sizes: SplitSizes | None = None,
) -> ConceptSplits:
    """Assign concepts to splits.

    Novel concepts are chosen one after the other, those with the fewest neighbours first. All neighbours of a chosen
    concept are left out, so that a novel concept has no neighbour in the world.

    Args:
        concepts: Candidates -> indices of drawings, without the pack that is kept for ``test_style``.
        style_drawings: Concept -> indices of drawings of that pack.
        clutter: Candidates for clutter alone -> indices of drawings; candidates that no split annotates are added.
        neighbours: Concept -> concepts with similar silhouettes or the same head word.
        silhouettes: (N, P) bool, of all drawings.
        sizes: Number of concepts of each group.

    Raises:
        InputError: there are too few concepts.
    """
    sizes = sizes or SplitSizes()
    links = {concept: set(neighbours.get(concept, ())) - {concept} for concept in (*concepts, *clutter)}

    # 1. Choose the novel concepts.
    chosen: list[str] = []
    left_out: set[str] = set()
    halves = {}
    cost = {name: len(links[name] & concepts.keys()) + _STYLE_COST * (name in style_drawings) for name in concepts}
    for concept in sorted(concepts, key=lambda name: (cost[name], shuffled(name))):
        if len(chosen) == sizes.val_novel + sizes.test_novel:
            break
        parts = support_and_targets(concepts[concept], silhouettes)
        if concept not in left_out and parts is not None:
            chosen.append(concept)
            halves[concept] = parts
            left_out |= links[concept]
    # Distribute them alternately, because the first ones have the fewest neighbours.
    chosen.sort(key=lambda name: shuffled(name, 'novel'))
    val, test = sorted(chosen[: sizes.val_novel]), sorted(chosen[sizes.val_novel :])

    # 2. Choose the known concepts, first those that test_style needs.
    known: list[str] = []
    per_word: Counter[str] = Counter()
    remaining = [name for name in concepts if name not in left_out and name not in halves]
    remaining = [name for name in remaining if len(concepts[name]) >= MIN_DRAWINGS]
    for concept in sorted(remaining, key=lambda name: (name not in style_drawings, shuffled(name))):
        if len(known) == sizes.train:
            break
        similar = links[concept] & set(known)
        own = silhouettes[list(concepts[concept])]
        word = concept.split()[0]
        if per_word[word] < MAX_PER_WORD and all(
            pairwise_iou(own, silhouettes[list(concepts[name])]).max() < SAME_IOU for name in similar
        ):
            known.append(concept)
            per_word[word] += 1
    # Check that there are enough concepts.
    for group, wanted, found in (
        ('novel', sizes.val_novel + sizes.test_novel, len(chosen)),
        ('training', sizes.train, len(known)),
    ):
        if found < wanted:
            raise InputError(f'the drawings give {found} {group} concepts, but {wanted} are requested; request fewer')
    # The order determines the frequencies in the training set.
    known.sort(key=lambda name: shuffled(name, 'frequency'))

    # 3. Choose the clutter, which has no neighbour among the annotated concepts.
    annotated = {*known, *val, *test}
    unused = {**clutter, **{name: drawings for name, drawings in concepts.items() if name not in annotated}}
    free = sorted((name for name in unused if not links[name] & annotated), key=shuffled)[: sizes.clutter]

    # 4. Assign the drawings.
    base = {name: tuple(concepts[name]) for name in known}
    style = {}
    for name in known:
        unseen = unlike(style_drawings.get(name, ()), concepts[name], silhouettes, STYLE_IOU)
        if unseen:
            style[name] = tuple(unseen)
    drawings: dict[str, Mapping[str, tuple[int, ...]]] = {}
    for split in SPLITS:
        if 'style' in split:
            drawings[split] = style
        elif 'novel' in split:
            names = val if 'val' in split else test
            part = int(not split.startswith('support') or split.endswith('same'))
            drawings[split] = {name: halves[name][part] for name in names}
        else:
            drawings[split] = base
    halves_of_clutter = (tuple(free[::2]), tuple(free[1::2]))
    for group, names in zip(('clutter_train', 'clutter_test'), halves_of_clutter, strict=True):
        drawings[group] = {name: tuple(unused[name]) for name in names}
    return ConceptSplits(tuple(known), tuple(val), tuple(test), tuple(sorted(style)), halves_of_clutter, drawings)


def support_and_targets(
    drawings: Sequence[int], silhouettes: np.ndarray
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Divide the drawings of a concept into those of exemplars and those of targets.

    Drawings with similar silhouettes stay together, also drawings of different packs. Targets get the larger part.

    Returns:
        Indices of support drawings (at least one) and of target drawings (at least two); None if there are fewer than
        four drawings, or too few that differ.
    """
    # Group drawings with similar silhouettes.
    if len(drawings) < MIN_NOVEL_DRAWINGS:
        return None
    near = np.argwhere(pairwise_iou(silhouettes[list(drawings)], silhouettes[list(drawings)]) >= MAX_IOU)
    names = [str(i) for i in range(len(drawings))]
    edges = [(names[i], names[j]) for i, j in near.tolist()]
    groups = sorted(cluster(names, edges, heads=defaultdict(tuple)), key=lambda group: (len(group), int(group[0])))
    # Assign the smallest groups to the exemplars: at least one group, and up to a third of the drawings.
    support: list[int] = []
    while len(groups) > 1 and (not support or 3 * (len(support) + len(groups[0])) <= len(drawings)):
        support += [drawings[int(i)] for i in groups.pop(0)]
    targets = [drawings[int(i)] for group in groups for i in group]
    return (tuple(sorted(support)), tuple(sorted(targets))) if support and len(targets) >= 2 else None


def unlike(drawings: Sequence[int], others: Sequence[int], silhouettes: np.ndarray, threshold: float) -> list[int]:
    """Select the ``drawings`` whose intersection over union with all ``others`` is below ``threshold``."""
    if not len(drawings):
        return []
    near = pairwise_iou(silhouettes[list(drawings)], silhouettes[list(others)]) >= threshold
    return [drawing for drawing, found in zip(drawings, near.any(1), strict=True) if not found]


def leakage(splits: ConceptSplits, silhouettes: np.ndarray) -> dict[str, float]:
    """Largest intersection over union of a silhouette of novel concepts and one of others, by pair of groups.

    Returns:
        ``val_novel/train``, ``test_novel/train``, ``test_novel/val_novel``, ``novel/clutter``, and, within the
        concepts, ``targets/support`` and ``style/train``. The design allows less than ``STYLE_IOU`` for
        ``style/train`` and less than ``MAX_IOU`` elsewhere.
    """

    def indices(*names: str) -> list[int]:
        return [i for name in names for drawings in splits.drawings[name].values() for i in drawings]

    def largest(first: Sequence[int], second: Sequence[int]) -> float:
        if not len(first) or not len(second):
            return 0.0
        return float(pairwise_iou(silhouettes[list(first)], silhouettes[list(second)]).max())

    # Collect the drawings of each group.
    val, test = (indices(f'support_{name}', name) for name in ('val_novel', 'test_novel'))
    train, clutter = indices('train'), indices('clutter_train', 'clutter_test')
    # Pair drawings of the same concept.
    within = [
        (splits.drawings[f'support_{name}'][concept], splits.drawings[name][concept])
        for name in ('val_novel', 'test_novel')
        for concept in splits.drawings[name]
    ]
    style = [(drawings, splits.drawings['train'][name]) for name, drawings in splits.drawings['test_style'].items()]
    return {
        'val_novel/train': largest(val, train),
        'test_novel/train': largest(test, train),
        'test_novel/val_novel': largest(test, val),
        'novel/clutter': largest(val + test, clutter),
        'train/clutter': largest(train, clutter),
        'targets/support': max((largest(*pair) for pair in within), default=0.0),
        'style/train': max((largest(*pair) for pair in style), default=0.0),
    }


def shuffled(name: str, purpose: str = '') -> str:
    """Sort key of a random order that is the same on all machines."""
    return hashlib.sha256(f'{purpose}/{name}'.encode()).hexdigest()
