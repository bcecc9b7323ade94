"""Mosaic of four images of one source."""

import random
from typing import Any

from mmdet.datasets.transforms import Mosaic

from dinor1.datasets.mixing import ImageLoader, restrict_scope
from dinor1.registry import TRANSFORMS


@TRANSFORMS.register_module()
class SameSourceMosaic(Mosaic):
    """MMDetection's ``Mosaic``, which draws the other three images from the source of the first.

    It needs no wrapper of the data set: its place is in the pipeline of a
    :class:`~dinor1.datasets.CocoPromptDataset`, behind ``LoadAnnotations``. The result has twice ``img_scale``, and was
    annotated for the classes for which all four images were.

    Args:
        img_scale: Width and height in pixels that each image is fitted into.
        prob: Probability of a mosaic.
        kwargs: ``center_ratio_range``, ``bbox_clip_border`` and ``pad_val`` of MMDetection's ``Mosaic``.
    """

    def __init__(self, img_scale: tuple[int, int] = (640, 640), prob: float = 1.0, **kwargs: Any) -> None:
        super().__init__(tuple(img_scale), prob=1.0, **kwargs)
        self.mosaic_prob = prob
        self.load = ImageLoader()

    def transform(self, results: dict) -> dict:
        """Put the image into a mosaic, or return it as it is."""
        if random.random() >= self.mosaic_prob:
            return results
        others = self.load(results, 3)
        results = super().transform(results | dict(mix_results=others))
        del results['mix_results']
        restrict_scope(results, others)
        return results
