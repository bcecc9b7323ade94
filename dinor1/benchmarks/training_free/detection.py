"""Detection by example with frozen features: report the proposals that are similar to a prompt."""

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from dinor1.evaluation.detections import Detections
from dinor1.evaluation.recognition import similarity_scores

MAX_DETECTIONS, NMS_IOU = 100, 0.2
# Width and height of a proposal must be 1 / 1.6 to 1.6 times those of the exemplar.
SIZE_FACTOR = 1.6


def detect(
    image_id: int,
    boxes: np.ndarray,
    features: Tensor,
    prompts: Tensor,
    labels: np.ndarray,
    exemplars: np.ndarray | None = None,
) -> Detections:
    """Score proposals by their similarity to prompts.

    Each proposal is assigned to the most similar prompt; then a non-maximum suppression over all classes follows.
    Exemplars on the image itself are detections with score 1, which suppress overlapping proposals; only proposals of
    about the size of an exemplar can be assigned to it.

    Args:
        image_id: Id of the image.
        boxes: (N, 4) proposals, (x1, y1, x2, y2) pixels.
        features: (N, C) features of the proposals.
        prompts: (K, C) features of the prompts.
        labels: (K,) class of each prompt.
        exemplars: (K, 4) boxes of the prompts on this image; None: the prompts are from other images.

    Returns:
        At most 100 detections with scores of ``(1 + cosine) / 2``.
    """
    labels = np.asarray(labels, dtype=np.int64)
    if not len(labels):
        return Detections.of_image(image_id, np.zeros((0, 4)), np.zeros(0), labels)
    # Assign proposals to prompts.
    similarity = similarity_scores(features, prompts)
    if exemplars is not None:
        ratio = torch.from_numpy(_sides(boxes)[:, None] / _sides(exemplars)[None])
        alike = ((ratio > 1 / SIZE_FACTOR) & (ratio < SIZE_FACTOR)).all(-1)
        similarity = similarity.masked_fill(~alike, -1.0)
    scores, best = similarity.max(1)
    kept = (scores >= 0).numpy()
    boxes, scores, best = boxes[kept], scores[kept], best[kept]
    # Add the exemplars as detections, and suppress overlapping boxes.
    if exemplars is not None:
        boxes = np.concatenate([exemplars, boxes])
        scores = torch.cat([torch.ones(len(labels)), scores])
        best = torch.cat([torch.arange(len(labels)), best])
    rows = nms(torch.from_numpy(boxes).float(), scores, NMS_IOU)[:MAX_DETECTIONS].numpy()
    return Detections.of_image(image_id, boxes[rows], scores.double().numpy()[rows], labels[best.numpy()[rows]])


def _sides(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(min=1e-6)
