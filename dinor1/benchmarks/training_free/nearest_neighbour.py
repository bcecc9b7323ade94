"""Classify ground-truth boxes by their nearest neighbours: how well frozen features alone separate classes."""

import numpy as np
from torch import Tensor

from dinor1.evaluation.bootstrap import Interval, sample_weights


def nearest_labels(gallery: Tensor, labels: np.ndarray, queries: Tensor) -> np.ndarray:
    """Label each query by the most similar vector of a gallery.

    Args:
        gallery: (N, C) unit vectors, N >= 1.
        labels: (N,) labels of the gallery.
        queries: (Q, C) unit vectors.

    Returns:
        (Q,) labels.
    """
    return labels[(queries @ gallery.t()).argmax(1).numpy()]


def accuracy_interval(
    right: np.ndarray, image: np.ndarray, num_samples: int = 1000, confidence: float = 0.95
) -> Interval:
    """Accuracy with a percentile interval of a bootstrap over images.

    Args:
        right: (Q,) bool, True for a correct label.
        image: (Q,) image id of each query.
        num_samples: Number of bootstrap samples.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        The interval; all values are NaN without queries.
    """
    if not len(right):
        return Interval(np.nan, np.nan, np.nan)
    # Count the hits and the boxes of each image.
    images, index = np.unique(image, return_inverse=True)
    hits, counts = np.bincount(index, weights=right), np.bincount(index)
    # Draw images with replacement, as weights of the images.
    weights = sample_weights(len(images), num_samples)
    low, high = np.percentile((weights @ hits) / (weights @ counts), [50 * (1 - confidence), 50 * (1 + confidence)])
    return Interval(float(np.mean(right)), float(low), float(high))
