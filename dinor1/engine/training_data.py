"""Checks of the training data after it has been read, before the first iteration."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from dinor1.utils.errors import InputError

# If more than this share of the annotations is left out, a warning is logged at the start and at the end of training.
MAX_SHARE_LEFT_OUT = 0.01


def data_sets_within(dataset: Any) -> Iterator[Any]:
    """Yield the data sets in a wrapper such as ``ConcatDataset``, or the data set itself."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner == [None]:
        yield dataset
        return
    for one in inner:
        yield from data_sets_within(one)


def check_boxes(dataset: Any) -> None:
    """Raise an error for a detection data set without a box to train on.

    Args:
        dataset: Training data set, or a wrapper of several; data sets without boxes, as of classification, are not
            checked.

    Raises:
        InputError: there is no box, or all boxes are crowds, ignored, or smaller than a pixel.
    """
    if not hasattr(dataset, 'get_data_info'):
        return
    # Look for a box to train on, and count the others.
    kinds: Counter[str] = Counter()
    for index in range(len(dataset)):
        instances = dataset.get_data_info(index).get('instances')
        if instances is None:
            return
        for instance in instances:
            if not instance.get('ignore_flag'):
                return
            kinds['crowd or ignored box'] += 1
    # Describe what was found.
    files = (str(getattr(one, 'ann_file', type(one).__name__)) for one in data_sets_within(dataset))
    names = ', '.join(dict.fromkeys(files))
    found = ', '.join(f'{count:,} x {kind}' for kind, count in kinds.items()) or 'no box at all'
    raise InputError(
        f'{names}: no box to train on in {len(dataset):,} images ({found}; boxes under one pixel and defective ones '
        'were left out before); correct the annotations'
    )


def left_out_lines(dataset: Any) -> list[str]:
    """One line for each data set in which more than 1 % of the annotations were left out: defective or tiny ones."""
    lines = []
    for one in data_sets_within(dataset):
        left_out, total = getattr(one, 'num_left_out', 0), getattr(one, 'num_annotations', 0)
        if left_out > MAX_SHARE_LEFT_OUT * total:
            lines.append(
                f'{one.ann_file}: {left_out:,} of {total:,} annotations were left out as defective or under one pixel'
            )
    return lines
