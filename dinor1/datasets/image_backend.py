"""The file backend of MMEngine with which a data set reads its images."""

from typing import Any


def image_backend_args(dataset: Any) -> dict | None:
    """``backend_args`` of the transform that loads images, or else of the data set; None: files of this machine.

    Args:
        dataset: Data set, or a wrapper, whose first data set decides.
    """
    # Find the data set within a wrapper.
    while not hasattr(dataset, 'pipeline'):
        inner = getattr(dataset, 'dataset', None) or next(iter(getattr(dataset, 'datasets', None) or ()), None)
        if inner is None:
            return None
        dataset = inner
    # LoadResizedImage contains the transform that it replaces.
    for transform in dataset.pipeline.transforms:
        for reader in (transform, getattr(transform, 'loader', None)):
            if getattr(reader, 'backend_args', None) is not None:
                return dict(reader.backend_args)
    return getattr(dataset, 'backend_args', None)
