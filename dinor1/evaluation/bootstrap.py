"""Bootstrap intervals of average precision: AP is computed on samples of images, drawn with replacement.

A class is included if it is evaluated on enough images. Several draws of prompts are averaged within a sample: the
interval is that of the average draw, over samples of images. Two detectors are compared on the same samples: the
interval is that of their difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dinor1.evaluation.box_matching import Matches
from dinor1.evaluation.seeds import non_negative
from dinor1.utils.errors import InputError

RECALLS = np.linspace(0.0, 1.0, 101)
# Number of samples that are computed together, which limits memory.
SAMPLES_AT_ONCE = 50


@dataclass(frozen=True)
class Interval:
    """A value with its interval; NaN where nothing is evaluated.

    Attributes:
        value: Value on all images.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


def sample_weights(num_images: int, num_samples: int, seed: int = 0) -> np.ndarray:
    """(num_samples, num_images) counts of each image in samples of ``num_images`` images, drawn with replacement."""
    generator = np.random.default_rng(non_negative(seed))
    return generator.multinomial(num_images, np.full(num_images, 1 / max(num_images, 1)), size=num_samples)


def weighted_ap(matches: Matches, weights: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """COCO's average precision of each class, as if image ``i`` occurred ``weights[b, i]`` times.

    Args:
        matches: Matches of all images.
        weights: (B, I) integers of at least 0.
        labels: (L,) classes to compute; None: all.

    Returns:
        (B, L, T) in [0, 1]; NaN where a class has no ground truth.
    """
    # Sort the detections by class and descending score.
    labels = np.arange(matches.positives.shape[1]) if labels is None else labels
    total = weights @ matches.positives[:, labels]  # (B, L)
    ap = np.zeros((len(weights), len(labels), matches.hit.shape[1]))
    order = np.lexsort((matches.image, -matches.score, matches.label))
    for column, label in enumerate(labels):
        rows = order[matches.label[order] == label]
        weight = weights[:, matches.image[rows]].astype(np.float64)  # (B, D)
        all_counted = weight.cumsum(1)
        for threshold in range(ap.shape[2]):
            hit, ignored = matches.hit[rows, threshold], matches.ignored[rows, threshold]
            # Compute precision at the hits only: between hits, precision falls and does not change the curve.
            hits = weight[:, hit].cumsum(1)
            counted = np.where(ignored, 0.0, weight).cumsum(1) if ignored.any() else all_counted
            precision = hits / (counted[:, hit] + np.spacing(1))
            # Exclude hits in images that a sample does not contain, and interpolate.
            precision = np.where(weight[:, hit] > 0, precision, 0.0)
            precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
            # Average over the recalls.
            for sample in range(len(weights)):
                if total[sample, column]:
                    index = np.searchsorted(hits[sample] / total[sample, column], RECALLS)
                    ap[sample, column, threshold] = np.append(precision[sample], 0.0)[index].mean()
    return np.where(total[..., None] > 0, ap, np.nan)


def bootstrap(
    draws: Sequence[Matches],
    baseline: Sequence[Matches] | None = None,
    min_images: int = 5,
    num_samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """AP and AP50 with percentile intervals; the mean over classes and draws of prompts.

    Args:
        draws: Matches for each draw of prompts, on the same images and classes.
        baseline: Matches of another detector on the same images; the result is the difference from it. None: the
            result is the AP itself.
        min_images: A class is included if at least this number of images has ground truth of it, in each draw.
        num_samples: Number of samples of images.
        seed: Seed of the samples.
        confidence: Coverage of the intervals, in (0, 1).

    Returns:
        ``AP`` and ``AP50``.

    Raises:
        InputError: there is no draw, the images differ, or a number is out of range.
    """
    # Check the arguments.
    everything = [*draws, *(baseline or ())]
    if not draws or (baseline is not None and not baseline):
        raise InputError('bootstrap: no draw of prompts; give the matches of at least one')
    if any(not np.array_equal(m.image_ids, draws[0].image_ids) for m in everything):
        raise InputError('bootstrap: the draws are of different images; evaluate the same annotation file')
    if num_samples < 1 or min_images < 1 or not 0 < confidence < 1:
        raise InputError(
            f'bootstrap: num_samples and min_images must be at least 1 and confidence in (0, 1), got {num_samples}, '
            f'{min_images} and {confidence}'
        )
    # Choose the classes.
    enough = np.all([evaluated_images(matches) >= min_images for matches in everything], axis=0)
    labels = np.flatnonzero(enough)
    # Evaluate all samples; the first row is the set itself.
    count = len(draws[0].image_ids)
    weights = np.concatenate([np.ones((1, count), dtype=np.int64), sample_weights(count, num_samples, seed)])
    values = _mean_over_draws(draws, weights, labels)
    if baseline is not None:
        values = values - _mean_over_draws(baseline, weights, labels)
    # Take percentiles over the samples.
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    result = {}
    for name, column in zip(('AP', 'AP50'), values.T, strict=True):
        known = column[1:][np.isfinite(column[1:])]
        low, high = np.percentile(known, tails) if len(known) else (np.nan, np.nan)
        result[name] = Interval(float(column[0]), float(low), float(high))
    return result


def evaluated_images(matches: Matches) -> np.ndarray:
    """(K,) number of images with ground truth of each class."""
    return (matches.positives > 0).sum(0)


def _mean_over_draws(draws: Sequence[Matches], weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(B, 2) AP and AP50, averaged over classes and draws; NaN where a sample has no class."""
    per_draw = []
    for matches in draws:
        parts = [
            _mean_over_classes(weighted_ap(matches, weights[start : start + SAMPLES_AT_ONCE], labels))
            for start in range(0, len(weights), SAMPLES_AT_ONCE)
        ]
        per_draw.append(np.concatenate(parts))
    return np.mean(per_draw, axis=0)


def _mean_over_classes(ap: np.ndarray) -> np.ndarray:
    known = np.isfinite(ap[..., 0])  # (B, K)
    count = known.sum(1)
    sums = np.where(known[..., None], ap, 0.0).sum(1)  # (B, T)
    both = np.stack([sums.mean(1), sums[:, 0]], 1)
    return np.divide(both, count[:, None], out=np.full(both.shape, np.nan), where=count[:, None] > 0)
