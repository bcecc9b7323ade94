"""Mean and standard deviation over evaluations with several prompt seeds."""

from collections.abc import Sequence

import numpy as np


def mean_and_std(runs: Sequence[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and sample standard deviation of each metric over repeated runs.

    The value -1 means undefined, as in COCO for an area range without objects; the mean is then -1.

    Args:
        runs: Metrics of each run, all with the same keys.

    Returns:
        Means, and sample standard deviations (n - 1 in the denominator; 0 for a single run).

    Raises:
        ValueError: no run, or runs with different metrics.
    """
    if not runs or any(run.keys() != runs[0].keys() for run in runs):
        raise ValueError('mean_and_std: expected at least one run, and the same metrics in all')
    mean, std = {}, {}
    for name in runs[0]:
        values = np.array([run[name] for run in runs], dtype=np.float64)
        # A metric is -1 where it is undefined.
        undefined = bool((values == -1).any())
        mean[name] = -1.0 if undefined else float(values.mean())
        std[name] = 0.0 if undefined or len(values) == 1 else float(values.std(ddof=1))
    return mean, std
