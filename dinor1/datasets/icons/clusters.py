"""Clusters of concepts with similar drawings or names: a cluster must not be divided between two splits.

Icon packs share drawings under different names. A category is unseen only if none of its drawings has nearly the same
silhouette as a drawing of the training set, regardless of the names.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np

from dinor1.datasets.icons.concepts import head_words

# Side of a silhouette, in pixels, and the minimum intersection over union of similar silhouettes.
SILHOUETTE_SIDE = 32
MAX_IOU = 0.8
_BLOCK = 1024


def silhouettes(opacity: np.ndarray) -> np.ndarray:
    """Silhouettes of drawings: cropped to the content, the longer side ``SILHOUETTE_SIDE`` pixels, centred.

    Args:
        opacity: (N, S, S) uint8, drawings that are cropped and centred already.

    Returns:
        (N, SILHOUETTE_SIDE ** 2) bool. True: at least half of the pixel is covered.
    """
    small = [cv2.resize(image, (SILHOUETTE_SIDE, SILHOUETTE_SIDE), interpolation=cv2.INTER_AREA) for image in opacity]
    flat = np.array(small, dtype=np.uint8).reshape(len(opacity), SILHOUETTE_SIDE**2)
    return flat >= 128


def pairwise_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of silhouettes (N, P) and (M, P), bool; (N, M) float32, 0 where both are empty."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    common = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1)[None] - common
    return common / np.maximum(union, 1)


def similar_pairs(first: np.ndarray, second: np.ndarray | None = None, threshold: float = MAX_IOU) -> np.ndarray:
    """Pairs of silhouettes whose intersection over union reaches ``threshold``.

    Args:
        first: (N, P) bool.
        second: (M, P) bool; None: pairs within ``first``, each once.
        threshold: In (0, 1].

    Returns:
        (K, 2) int64, indices into ``first`` and ``second``.
    """
    other = first if second is None else second
    area, other_area = first.sum(1), other.sum(1)
    # An intersection over union of t needs a ratio of areas of at least t. After sorting by area, a block is compared
    # with a short range.
    order, other_order = np.argsort(area, kind='stable'), np.argsort(other_area, kind='stable')
    sorted_other = other_area[other_order]
    pairs = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        low = np.searchsorted(sorted_other, threshold * area[rows[0]] - 1e-6, side='left')
        high = np.searchsorted(sorted_other, area[rows[-1]] / threshold + 1e-6, side='right')
        columns = other_order[low:high]
        found = np.argwhere(pairwise_iou(first[rows], other[columns]) >= threshold)
        pairs.append(np.stack([rows[found[:, 0]], columns[found[:, 1]]], axis=1))
    result = np.concatenate(pairs)
    return result if second is not None else result[result[:, 0] < result[:, 1]]


def cluster(
    concepts: Sequence[str], edges: Iterable[tuple[str, str]], heads: Mapping[str, Iterable[str]] | None = None
) -> list[list[str]]:
    """Connected components of concepts under similar silhouettes and shared head words.

    Args:
        concepts: Names.
        edges: Pairs of concepts with similar silhouettes.
        heads: Head words of each concept; None: those of :func:`~dinor1.datasets.icons.concepts.head_words`.

    Returns:
        Clusters in the order of their first concept; concepts are in the order given.
    """
    # Store the components as a forest (union-find): a component is the tree of its concepts.
    parent = {concept: concept for concept in concepts}

    def find(concept: str) -> str:
        while parent[concept] != concept:
            parent[concept] = parent[parent[concept]]
            concept = parent[concept]
        return concept

    # Join concepts with similar silhouettes, and concepts with a common head word.
    for first, second in edges:
        parent[find(second)] = find(first)
    with_head: dict[str, str] = {}
    for concept in concepts:
        for head in head_words(concept) if heads is None else heads[concept]:
            parent[find(concept)] = find(with_head.setdefault(head, concept))
    # Collect the concepts of each component.
    members: dict[str, list[str]] = defaultdict(list)
    for concept in concepts:
        members[find(concept)].append(concept)
    return list(members.values())
