"""Thresholds and probabilities from checked detections, and exemplars that do not resemble their class.

A user checks the detections of some images: the user *confirms* some of them and *removes* the others. The functions
estimate from these decisions the probability that belongs to a score, and the best threshold.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from dinor1.utils.errors import InputError

_EPS = 1e-6
# Range of temperatures that is searched.
_TEMPERATURES = (0.05, 20.0)


class OperatingPoint(NamedTuple):
    """Threshold and calibration of the scores of a class.

    Attributes:
        threshold: Score that gives the highest F1 among the checked detections, in [0, 1].
        temperature: T, for which ``sigmoid(logit(score) / T)`` is closest to the probability that a detection is right.
        num_checked: Number of checked detections of the class.
        pooled: Whether the numbers come from all classes together, because this class has too few detections.
        error_before: Expected calibration error of the scores, in [0, 1].
        error_after: The same of the scores with temperature.
    """

    threshold: float
    temperature: float
    num_checked: int
    pooled: bool
    error_before: float
    error_after: float


def with_temperature(scores: ArrayLike, temperature: float) -> np.ndarray:
    """``sigmoid(logit(score) / temperature)`` of scores (n,) in [0, 1]."""
    clipped = np.clip(np.asarray(scores, dtype=np.float64), _EPS, 1 - _EPS)
    return 1 / (1 + np.exp(-np.log(clipped / (1 - clipped)) / temperature))


def fit_temperature(scores: ArrayLike, confirmed: ArrayLike) -> float:
    """Temperature of the highest likelihood (C. Guo et al., arXiv 1706.04599), between 0.05 and 20.

    Args:
        scores: (n,) in [0, 1], n >= 1.
        confirmed: (n,) True = the detection is right.
    """
    scores, confirmed = _checked(scores, confirmed)

    def negative_log_likelihood(log_temperature: float) -> float:
        # Keep the logarithms finite.
        p = np.clip(with_temperature(scores, np.exp(log_temperature)), 1e-12, 1 - 1e-12)
        return float(-np.where(confirmed, np.log(p), np.log1p(-p)).sum())

    # Search on a logarithmic scale, on which the limits are symmetric around 1.
    bounds = tuple(np.log(_TEMPERATURES))
    found = minimize_scalar(negative_log_likelihood, bounds=bounds, method='bounded', options=dict(xatol=1e-6))
    return float(np.exp(found.x))


def best_threshold(scores: ArrayLike, confirmed: ArrayLike) -> float:
    """Threshold of the highest F1 among checked detections; of several, the highest.

    It is the mean of the lowest score that is kept and the next lower score. Objects without a detection are
    unknown, and do not count.

    Args:
        scores: (n,) in [0, 1], n >= 1.
        confirmed: (n,) True = the detection is right.

    Returns:
        The threshold: scores above it are kept. With nothing confirmed, 1.
    """
    scores, confirmed = _checked(scores, confirmed)
    if not confirmed.any():
        return 1.0
    # Keep the k detections of the highest scores, for every k that does not divide equal scores.
    order = np.argsort(-scores, kind='stable')
    scores, confirmed = scores[order], confirmed[order]
    kept = np.arange(1, len(scores) + 1)
    f1 = 2 * np.cumsum(confirmed) / (kept + confirmed.sum())
    f1[:-1][scores[:-1] == scores[1:]] = -1
    best = int(np.argmax(f1))
    following = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + following) / 2)


def expected_calibration_error(scores: ArrayLike, confirmed: ArrayLike, num_bins: int = 10) -> float:
    """Mean distance between score and fraction of right detections, over equal bins of the score, in [0, 1].

    Args:
        scores: (n,) in [0, 1], n >= 1.
        confirmed: (n,) True = the detection is right.
        num_bins: Number of bins; each counts by its number of detections.
    """
    scores, confirmed = _checked(scores, confirmed)
    bins = np.minimum((scores * num_bins).astype(int), num_bins - 1)
    gap = np.bincount(bins, weights=scores, minlength=num_bins) - np.bincount(bins, confirmed, num_bins)
    return float(np.abs(gap).sum() / len(scores))


def operating_points(
    scores: ArrayLike, labels: Sequence[str], confirmed: ArrayLike, min_checked: int = 10
) -> dict[str, OperatingPoint]:
    """Threshold and temperature of each class.

    Args:
        scores: (n,) scores in [0, 1] of checked detections, n >= 1.
        labels: n class names.
        confirmed: (n,) True = the detection is right, False = it was removed.
        min_checked: A class with fewer detections gets the numbers of all classes together.

    Returns:
        Operating point by class name, in the order of their first detections.

    Raises:
        InputError: there is no detection, the lengths differ, or a score is not in [0, 1].
    """
    # Check the arguments.
    scores, confirmed = _checked(scores, confirmed)
    if len(labels) != len(scores):
        raise InputError(f'operating point: expected a class name for each of {len(scores)} scores, got {len(labels)}')
    # Compute the operating point of each class.
    names, points = np.asarray(labels, dtype=object), {}
    for name in dict.fromkeys(labels):
        own = names == name
        pooled = int(own.sum()) < min_checked
        chosen = np.ones_like(own) if pooled else own
        temperature = fit_temperature(scores[chosen], confirmed[chosen])
        points[name] = OperatingPoint(
            best_threshold(scores[chosen], confirmed[chosen]),
            temperature,
            int(own.sum()),
            pooled,
            expected_calibration_error(scores[chosen], confirmed[chosen]),
            expected_calibration_error(with_temperature(scores[chosen], temperature), confirmed[chosen]),
        )
    return points


class Absence(NamedTuple):
    """How well an image-level threshold separates images with and without a class.

    Attributes:
        threshold: A class is absent if its best score on the image is not above it. It minimises half of the sum of the
            two rates below.
        miss_rate: Fraction of the images with the class that are below.
        false_alarm_rate: Fraction of the images without the class that are above.
        false_positives_per_image: Mean number of detections above the threshold on images without the class; None if
            their scores were not given.
    """

    threshold: float
    miss_rate: float
    false_alarm_rate: float
    false_positives_per_image: float | None


def absence_threshold(
    best_scores: ArrayLike, present: ArrayLike, scores_without: Sequence[ArrayLike] | None = None
) -> Absence:
    """Image-level threshold of a class: below it, the class counts as absent.

    Args:
        best_scores: (n,) highest score of the class on each image, ``sample.best_scores`` of ``predict``.
        present: (n,) True = the image shows the class.
        scores_without: For each image without the class, the scores of its detections.

    Raises:
        InputError: images with or without the class are missing, or a score is not in [0, 1].
    """
    best_scores, present = _checked(best_scores, present)
    if present.all() or not present.any():
        raise InputError('absence: expected images with and images without the class; give both')
    # Try the middle between all neighbouring scores.
    edges = np.concatenate([[0.0], np.unique(best_scores), [1.0]])
    candidates = (edges[:-1] + edges[1:]) / 2
    # Choose the threshold with the fewest misses and false alarms.
    above = best_scores[None] > candidates[:, None]
    misses, alarms = 1 - above[:, present].mean(1), above[:, ~present].mean(1)
    best = int(np.argmin(misses + alarms))
    threshold = float(candidates[best])
    # Count the detections above the threshold on images without the class.
    false_positives = None
    if scores_without is not None:
        counts = [int((np.asarray(scores) > threshold).sum()) for scores in scores_without]
        false_positives = float(np.mean(counts)) if counts else 0.0
    return Absence(threshold, float(misses[best]), float(alarms[best]), false_positives)


class ExemplarSimilarity(NamedTuple):
    """Similarity of an exemplar to the exemplars of its own and of the other classes.

    Attributes:
        own: Cosine similarity to the mean of the other exemplars of its class, in [-1, 1]; NaN without other exemplars.
        other: Highest cosine similarity to the mean of another class; NaN without other classes.
        is_outlier: Whether it is more similar to another class than to its own.
    """

    own: np.ndarray
    other: np.ndarray
    is_outlier: np.ndarray


def exemplar_similarity(embeddings: ArrayLike, labels: ArrayLike) -> ExemplarSimilarity:
    """Compare each exemplar with the rest of its class, leaving itself out, and with the other classes.

    Args:
        embeddings: (n, C) prompt embeddings of exemplars.
        labels: (n,) class indices.

    Returns:
        Three arrays (n,).
    """
    rows, labels = np.asarray(embeddings, dtype=np.float64), np.asarray(labels)
    # Sum the embeddings of each class.
    classes = np.unique(labels)
    member = labels[:, None] == classes[None]  # (n, K)
    sums, counts = member.T.astype(float) @ rows, member.sum(0)
    own, other = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    # Compare each exemplar with the means of the classes.
    for i, row in enumerate(rows):
        k = int(np.flatnonzero(member[i])[0])
        if counts[k] > 1:
            own[i] = _cosine(row, (sums[k] - row) / (counts[k] - 1))
        if len(classes) > 1:
            other[i] = max(_cosine(row, sums[j] / counts[j]) for j in range(len(classes)) if j != k)
    return ExemplarSimilarity(own, other, np.nan_to_num(other, nan=-2.0) > np.nan_to_num(own, nan=2.0))


def above_thresholds(
    scores: Sequence[float], labels: Sequence[str], points: Mapping[str, OperatingPoint]
) -> np.ndarray:
    """(n,) True = the score is above the threshold of its class; classes without an operating point are kept."""
    pairs = zip(scores, labels, strict=True)
    return np.array([name not in points or score > points[name].threshold for score, name in pairs], dtype=bool)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def _checked(scores: ArrayLike, confirmed: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores as float64 and flags as bool, both (n,).

    Raises:
        InputError: there are no scores, the lengths differ, or a score is not in [0, 1].
    """
    scores, confirmed = np.asarray(scores, dtype=np.float64), np.asarray(confirmed, dtype=bool)
    if not scores.size or scores.ndim != 1 or scores.shape != confirmed.shape:
        raise InputError(
            f'operating point: expected as many flags as scores, at least one, got {confirmed.size} for {scores.size}'
        )
    if not ((scores >= 0) & (scores <= 1)).all():
        raise InputError('operating point: scores must be in [0, 1]; give those of predict')
    return scores, confirmed
