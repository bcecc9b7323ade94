"""Mosaic of four images of one source."""

import random
from typing import Any

from mmdet.datasets.transforms import Mosaic

from dinor1.datasets.mixing import ImageLoader, restrict_scope
from dinor1.registry import TRANSFORMS


@TRANSFORMS.register_module()
class SameSourceMosaic(Mosaic):
    """MMDetection's ``Mosaic``, which draws the other three images from the source of the first.

    Put it into the pipeline of a :class:`~dinor1.datasets.CocoPromptDataset`, after ``LoadAnnotations``; a wrapper of
    the data set is not needed. The result has twice ``img_scale``, and counts as annotated for the classes for which
    all four images were annotated.

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
        """Combine the image with three others, or return it unchanged."""
        if random.random() >= self.mosaic_prob:
            return results
        # Combine four images.
        others = self.load(results, 3)
        results = super().transform(results | dict(mix_results=others))
        del results['mix_results']
        # Only classes that all four images were annotated for are known to be absent.
        restrict_scope(results, others)
        return results
