"""Clusters and splits: nothing that training shows leaks into what is called novel."""

import numpy as np
import pytest

from dinor1.datasets.icons.clusters import MAX_IOU, SILHOUETTE_SIDE, cluster, pairwise_iou, silhouettes, similar_pairs
from dinor1.datasets.icons.concepts import head_words
from dinor1.datasets.icons.library import STYLE_PACK, build_library
from dinor1.datasets.icons.splits import (
    MIN_NOVEL_DRAWINGS,
    SPLITS,
    STYLE_IOU,
    SplitSizes,
    leakage,
    support_and_targets,
)
from dinor1.utils.errors import InputError


def naive_iou(first, second):
    return np.array([[(a & b).sum() / max((a | b).sum(), 1) for b in second] for a in first])


def test_silhouettes_of_an_empty_drawing_and_of_a_square():
    assert silhouettes(np.zeros((0, 96, 96), np.uint8)).shape == (0, SILHOUETTE_SIDE**2)
    image = np.zeros((1, 96, 96), np.uint8)
    image[0, :48] = 255
    flat = silhouettes(image)[0].reshape(SILHOUETTE_SIDE, SILHOUETTE_SIDE)
    assert flat[:16].all()
    assert not flat[16:].any()


def test_pairwise_iou_is_that_of_sets():
    rng = np.random.default_rng(0)
    a, b = rng.random((7, 50)) < 0.5, rng.random((9, 50)) < 0.7
    a[0] = False
    np.testing.assert_allclose(pairwise_iou(a, b), naive_iou(a, b), rtol=1e-6)


@pytest.mark.parametrize('threshold', [0.5, 0.8, 1.0])
def test_similar_pairs_are_all_pairs_above_the_threshold(threshold):
    rng = np.random.default_rng(1)
    base = rng.random((30, 64)) < rng.uniform(0.1, 0.9, size=(30, 1))
    shapes = np.concatenate([base, base ^ (rng.random((30, 64)) < 0.1), base[:3]])
    expected = {(i, j) for i, j in np.argwhere(naive_iou(shapes, shapes) >= threshold - 1e-9).tolist() if i < j}
    assert set(map(tuple, similar_pairs(shapes, threshold=threshold).tolist())) == expected
    both = {tuple(pair) for pair in similar_pairs(shapes, base, threshold).tolist()}
    assert both == {(i, j) for i, j in np.argwhere(naive_iou(shapes, base) >= threshold - 1e-9).tolist()}


def test_cluster_joins_edges_and_heads():
    concepts = ['a', 'b', 'c', 'd', 'e']
    heads = {'a': ['p'], 'b': ['q'], 'c': ['p'], 'd': ['r'], 'e': []}
    assert cluster([], []) == []
    assert cluster(concepts, [('d', 'c')], heads) == [['a', 'c', 'd'], ['b'], ['e']]


def test_support_and_targets_differ():
    shapes = np.eye(5, 8, dtype=bool)
    shapes[1] = shapes[0]
    support, targets = support_and_targets([0, 1, 2, 3, 4], shapes)
    assert support == (2,)
    assert targets == (0, 1, 3, 4)
    # All alike, too few, or one side without an exemplar.
    assert support_and_targets([0, 1, 0, 1], shapes) is None
    assert support_and_targets([0, 1, 2], shapes) is None


def check_library(library):
    """Check the rules that hold for every library, with any drawings."""
    splits = library.splits
    groups = [set(splits.train), set(splits.val_novel), set(splits.test_novel), *map(set, splits.clutter)]
    assert sum(map(len, groups)) == len(set.union(*groups))
    # The pack that is kept for test_style is shown nowhere else.
    for split, concepts in splits.drawings.items():
        packs = {library.keys[i].split('/')[0] for indices in concepts.values() for i in indices}
        assert packs == {STYLE_PACK} if 'style' in split else STYLE_PACK not in packs
    for name in ('val_novel', 'test_novel'):
        for concept, targets in splits.drawings[name].items():
            support = splits.drawings[f'support_{name}'][concept]
            assert not set(support) & set(targets)
            assert len(support) + len(targets) >= MIN_NOVEL_DRAWINGS
            assert splits.drawings[f'support_{name}_same'][concept] == targets
    # The leakage test: no silhouette of a novel concept is similar to one that training, or another split, shows.
    for pair, iou in leakage(splits, library.silhouettes).items():
        assert iou < (STYLE_IOU if pair == 'style/train' else MAX_IOU)
    heads = [{head for concept in group for head in head_words(concept)} for group in groups]
    assert not heads[1] & heads[0]
    assert not heads[2] & heads[0]
    assert not heads[1] & heads[2]
    assert not (heads[3] | heads[4]) & (heads[0] | heads[1] | heads[2])
    assert set(splits.style) <= set(splits.train)
    assert set(SPLITS) <= set(splits.drawings)


def test_splits_of_the_tiny_library(tiny_library):
    splits = tiny_library.splits
    assert [len(group) for group in (splits.train, splits.val_novel, splits.test_novel)] == [10, 3, 4]
    assert len(splits.style) > 5
    check_library(tiny_library)


def test_similar_drawing_is_not_novel(tiny_library, tiny_drawings):
    """A drawing of a novel concept under another name: the concept and its double are not in two splits."""
    novel = tiny_library.splits.test_novel[0]
    sources = [drawing.svg for drawing in tiny_drawings if drawing.name == novel and drawing.pack == 'mdi']
    doubles = [
        drawing._replace(name='zebra', style=f's{k}')
        for k, drawing in enumerate(d for d in tiny_drawings if d.svg in sources)
    ]
    sizes = SplitSizes(train=10, val_novel=3, test_novel=4, clutter=4)
    library = build_library([*tiny_drawings, *doubles], sizes=sizes)
    check_library(library)
    groups = [library.splits.train, library.splits.val_novel, library.splits.test_novel]
    assert sum(novel in group or 'zebra' in group for group in groups) <= 1


def test_too_few_concepts_is_one_line(tiny_library, tiny_drawings):
    with pytest.raises(InputError, match='the drawings give .* novel concepts, but 100 are requested'):
        build_library(tiny_drawings, sizes=SplitSizes(10, 50, 50, 0))


def test_assignment_does_not_depend_on_the_order_of_drawings(tiny_library, tiny_drawings):
    sizes = SplitSizes(train=10, val_novel=3, test_novel=4, clutter=4)
    library = build_library(tiny_drawings[::-1], sizes=sizes)
    assert library.splits.train == tiny_library.splits.train
    assert library.splits.test_novel == tiny_library.splits.test_novel


@pytest.mark.slow
def test_splits_of_the_installed_packs(installed_library):
    splits = installed_library.splits
    assert [len(group) for group in (splits.train, splits.val_novel, splits.test_novel)] == [1200, 150, 300]
    assert len(splits.style) >= 150
    check_library(installed_library)
