"""Checks of the training data after it has been read, before the first iteration."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from dinor1.utils.errors import InputError

# A larger share of annotations that are left out is reported when the training starts and when it ends.
MAX_SHARE_LEFT_OUT = 0.01


def data_sets_within(dataset: Any) -> Iterator[Any]:
    """The data sets in a wrapper such as ``ConcatDataset``, or the data set itself."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner == [None]:
        yield dataset
        return
    for one in inner:
        yield from data_sets_within(one)


def check_boxes(dataset: Any) -> None:
    """Raise an error for a data set of boxes without any that can be trained on.

    Args:
        dataset: Data set of a training, or a wrapper of several. Others than of boxes are not checked.

    Raises:
        InputError: all boxes are crowds, ignored, smaller than a pixel, or there is none.
    """
    if not hasattr(dataset, 'get_data_info'):
        return
    kinds: Counter[str] = Counter()
    for index in range(len(dataset)):
        instances = dataset.get_data_info(index).get('instances')
        if instances is None:
            return
        for instance in instances:
            if not instance.get('ignore_flag'):
                return
            kinds['crowd or ignored box'] += 1
    files = (str(getattr(one, 'ann_file', type(one).__name__)) for one in data_sets_within(dataset))
    names = ', '.join(dict.fromkeys(files))
    found = ', '.join(f'{count:,} x {kind}' for kind, count in kinds.items()) or 'no box at all'
    raise InputError(
        f'{names}: no box to train on in {len(dataset):,} images ({found}; boxes under one pixel and defective ones '
        'are left out before); correct the annotations'
    )


def left_out_lines(dataset: Any) -> list[str]:
    """A line for each data set of which more than a hundredth of the annotations was left out as defective."""
    lines = []
    for one in data_sets_within(dataset):
        left_out, total = getattr(one, 'num_left_out', 0), getattr(one, 'num_annotations', 0)
        if left_out > MAX_SHARE_LEFT_OUT * total:
            lines.append(f'{one.ann_file}: {left_out:,} of {total:,} annotations were left out as defective')
    return lines
