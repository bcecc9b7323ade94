"""Prompts of the tests of the inferencer, and comparisons of their detections."""

import numpy as np

BOXES = [[5, 5, 30, 40], [40, 10, 70, 50], [10, 30, 60, 58]]
NAMES = ['cat', 'dog', 'cup']


def assert_same(results, expected, tolerance=0.0):
    """Assert equal detections in equal order; a tolerance of 0 means bitwise equal."""
    assert len(results) == len(expected)
    for one, two in zip(results, expected, strict=True):
        assert one['names'] == two['names']
        np.testing.assert_allclose(one['scores'], two['scores'], rtol=0, atol=tolerance)
        np.testing.assert_allclose(one['bboxes'], two['bboxes'], rtol=0, atol=100 * tolerance)


def detections(result, name=None):
    """Detections of one class, or of all classes, as pairs of name and array (score, box)."""
    found = zip(result['names'], result['scores'], result['bboxes'], strict=True)
    return [(n, np.array([score, *box])) for n, score, box in found if name in (None, n)]


def same_sets(found, expected):
    """Whether every detection of each list is in the other list, in any order."""

    def has_like(one, others):
        # Tolerance: float32 rounding of scores below 1 and of boxes below 100 pixels.
        return any(n == one[0] and np.allclose(v, one[1], rtol=1e-4, atol=1e-5) for n, v in others)

    both = all(has_like(d, expected) for d in found) and all(has_like(d, found) for d in expected)
    return both and len(found) == len(expected)


def embeddings_of(inferencer, **kwargs):
    prompts = inferencer.set_prompts(**kwargs)
    return dict(zip(prompts.names, prompts.embeddings, strict=True))
