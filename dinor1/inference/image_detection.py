"""Detection on prepared images: batch by batch, or in several views of each image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from dinor1.models import DINOR1
from dinor1.structures import PromptSet

from .preparation import ImagePreparation
from .tiling import detect_views


class ImageDetection(NamedTuple):
    """What is the same for all images of a call.

    Attributes:
        model: The detector.
        preparation: Its test pipeline.
        prompts: What to search for.
        thresholds: (num_classes,) minimum score of each class, on the CPU.
        batch_size: Maximum number of images per forward pass.
    """

    model: DINOR1
    preparation: ImagePreparation
    prompts: PromptSet
    thresholds: Tensor
    batch_size: int

    def on_all(
        self, images: Sequence[str | np.ndarray], tile: int | None, overlap: float, flip: bool
    ) -> list[DetDataSample]:
        """Detections on images, or on several views of each; arguments of :meth:`on_images` and :meth:`on_views`."""
        if tile is None and not flip:
            return self.on_images(images)
        return [self.on_views(image, tile, overlap, flip) for image in images]

    def on_images(self, images: Sequence[str | np.ndarray]) -> list[DetDataSample]:
        """Detections that reach the thresholds, on the CPU.

        Args:
            images: Paths, or BGR arrays (H, W, 3) of uint8.

        Returns:
            One sample per image, in order, with ``pred_instances`` and ``best_scores``, the highest score of each class
            below the threshold too.
        """
        # Detect batch by batch, and restore the order of the images.
        results = [DetDataSample() for _ in images]
        for indices, data in self.preparation.batches(images, self.batch_size):
            samples = self.model.predict(data['inputs'], data['data_samples'], self.prompts)
            for i, sample in zip(indices, samples, strict=True):
                found = sample.pred_instances.cpu()
                sample.set_metainfo(dict(best_scores=_best_scores(found)))
                sample.pred_instances = found[found.scores >= self.thresholds[found.labels]]
                results[i] = sample
        return results

    def on_views(self, image: str | np.ndarray, tile: int | None, overlap: float, flip: bool) -> DetDataSample:
        """As :meth:`on_images`, for one image in several views.

        Args:
            image: A path, or a BGR array (H, W, 3) of uint8.
            tile: See :func:`~dinor1.inference.tiling.detect_views`.
            overlap: See :func:`~dinor1.inference.tiling.detect_views`.
            flip: See :func:`~dinor1.inference.tiling.detect_views`.
        """
        samples: list[DetDataSample] = []

        def detect(crops: Sequence[np.ndarray]) -> list[InstanceData]:
            samples.extend(self.on_images(crops))
            return [sample.pred_instances for sample in samples]

        # The first view is the whole image: return its sample with the detections of all views.
        merged = detect_views(self.preparation.load(image), detect, tile, overlap, flip)
        whole = samples[0]
        whole.pred_instances = merged
        best: dict[str, float] = {}
        for sample in samples:
            best = {name: max(score, best.get(name, 0)) for name, score in (best | sample.best_scores).items()}
        path = image if isinstance(image, str) else None
        whole.set_metainfo(dict(img_path=path, best_scores=best))
        return whole


def _best_scores(found: InstanceData) -> dict[str, float]:
    """Highest score of each class among the detections, which are in descending order of their scores."""
    best: dict[str, float] = {}
    for name, score in zip(found.label_names, found.scores.tolist(), strict=True):
        best.setdefault(name, score)
    return best
