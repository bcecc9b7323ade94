"""Operating points from detections that a user has checked."""

from collections.abc import Sequence

from dinor1.utils.errors import InputError

from .operating_point import OperatingPoint, operating_points
from .output_formats import Detections, as_record


def calibrated(
    checked: Sequence[tuple[Detections, Sequence[bool]]], min_checked: int = 10
) -> dict[str, OperatingPoint]:
    """Threshold and temperature of each class; arguments of :meth:`~dinor1.inference.DINOR1Inferencer.calibrate`.

    Raises:
        InputError: there is no detection, or the number of flags differs from that of the detections.
    """
    scores, names, confirmed = [], [], []
    for i, (sample, flags) in enumerate(checked):
        record = as_record(sample)
        if len(flags) != len(record['scores']):
            raise InputError(
                f'calibrate: image {i} has {len(record["scores"])} detections, but {len(flags)} flags; '
                'give one for each'
            )
        scores += record['scores']
        names += record['names']
        confirmed += list(flags)
    return operating_points(scores, names, confirmed, min_checked)
