"""Differences between two arms of a study, paired by seed, with Student's interval.

Two arms with the same seed share initial weights and the order of the data, so their difference varies less than the
value of either arm.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats


class PairedDifference(NamedTuple):
    """Mean difference with its confidence interval.

    Attributes:
        n: Number of seeds that both arms have.
        mean: Mean difference.
        half_width: Half the width of the interval; infinite for a single seed.
        p_value: Two-sided p-value of Student's paired test. NaN for a single seed; 1 if all differences are 0; 0 if all
            differences are equal and not 0.
    """

    n: int
    mean: float
    half_width: float
    p_value: float

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def paired_difference(
    ours: Mapping[int, float], theirs: Mapping[int, float], confidence: float = 0.95
) -> PairedDifference | None:
    """Mean of ``ours - theirs`` over the seeds that both arms have.

    Args:
        ours: Value by seed.
        theirs: Value by seed.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        The difference; None if the arms share no seed.

    Raises:
        ValueError: ``confidence`` is not in (0, 1), or a value is not finite.
    """
    if not 0 < confidence < 1:
        raise ValueError(f'confidence must be in (0, 1), got {confidence}')
    # Pair the arms by seed.
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds], dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ValueError(f'a value of the seeds {seeds} is not finite')
    # Compute the interval and the p-value of Student's test.
    count, mean = len(seeds), float(differences.mean())
    if count == 1:
        return PairedDifference(1, mean, math.inf, math.nan)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    half_width = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error
    if error == 0:
        return PairedDifference(count, mean, 0.0, 1.0 if mean == 0 else 0.0)
    return PairedDifference(count, mean, half_width, float(2 * stats.t.sf(abs(mean) / error, count - 1)))


def mean_interval(values: Mapping[int, float], confidence: float = 0.95) -> PairedDifference:
    """Mean of one arm over its seeds with Student's interval, computed as the difference to zero.

    Raises:
        ValueError: there is no value; see also :func:`paired_difference`.
    """
    if not values:
        raise ValueError('mean_interval: expected at least one value')
    return paired_difference(values, dict.fromkeys(values, 0.0), confidence)
