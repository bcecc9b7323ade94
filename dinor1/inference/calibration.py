"""Operating points from detections that a user has checked."""

from collections.abc import Sequence

from dinor1.utils.errors import InputError

from .arguments import as_list
from .operating_point import OperatingPoint, operating_points
from .output_formats import Detections, as_record


def calibrated(
    checked: Sequence[tuple[Detections, Sequence[bool]]], min_checked: int = 10
) -> dict[str, OperatingPoint]:
    """Threshold and temperature of each class; arguments of :meth:`~dinor1.inference.DINOR1Inferencer.calibrate`.

    Raises:
        InputError: an argument is no list, there is no detection, or the number of flags differs from that of the
            detections.
    """
    scores, names, confirmed = [], [], []
    for i, pair in enumerate(as_list(checked, 'calibrate')):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError(f'calibrate: image {i} must be a pair of detections and flags, got {type(pair).__name__}')
        sample, flags = pair[0], as_list(pair[1], f'calibrate: flags of image {i}')
        record = as_record(sample)
        if len(flags) != len(record['scores']):
            raise InputError(
                f'calibrate: image {i} has {len(record["scores"])} detections, but {len(flags)} flags; '
                'give one for each'
            )
        scores += record['scores']
        names += record['names']
        confirmed += flags
    return operating_points(scores, names, confirmed, min_checked)
