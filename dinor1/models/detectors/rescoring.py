"""Rescoring of detections: their boxes are encoded like exemplars, and compared with the prompts.

The decoder's classification compares queries with prompts. After a short training on the icon world it tells objects
from background, but hardly distinguishes classes, which the prompt encoder does. Therefore the prompt encoder, which
embeds the exemplars, embeds the detected boxes too. F-VLM (arXiv 2209.15639) combines the scores of a detector with
those of a frozen image encoder for the same reason. Prompts with names keep the scores of the decoder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.structures import InstanceData
from torch import Tensor

from dinor1.structures import DetectorOutput, ImageFeatures, PromptSet
from dinor1.utils.dataclass_config import with_defaults
from dinor1.utils.errors import InputError

if TYPE_CHECKING:
    from .dino_r1 import DINOR1


@dataclass(frozen=True)
class Rescoring:
    """Settings of :func:`rescore`.

    Attributes:
        temperature: Temperature t of the softmax over classes, positive.
        background: Cosine b in [-1, 1] that a box must exceed to belong to a prompt rather than to no prompt.
        objectness_power: Exponent a of the detector's own score, at least 0; 0: it is not used.

    Raises:
        InputError: a value is out of range.
    """

    temperature: float = 0.1
    background: float = 0.5
    objectness_power: float = 0.5

    def __post_init__(self) -> None:
        limits = dict(temperature=(1e-3, 1e3), background=(-1, 1), objectness_power=(0, 10))
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
                raise InputError(f'rescoring: {name} must be a number in [{low:g}, {high:g}], got {value!r}')


def rescoring(given: Mapping[str, Any] | None) -> Rescoring | None:
    """Settings from ``test_cfg.rescoring``; None: detections keep the scores of the decoder.

    Raises:
        InputError: a key is unknown, or a value is out of range.
    """
    return None if given is None else with_defaults(given, Rescoring(), 'model.test_cfg.rescoring')


def rescore(objectness: Tensor, embeddings: Tensor, prompts: PromptSet, settings: Rescoring) -> Tensor:
    """Scores of boxes for the classes of a prompt set.

    With the cosine c_k of a box and class k, the score is o^a exp(c_k / t) / (exp(b / t) + sum_j exp(c_j / t)). The
    sum is over all offered classes, negative ones included. With a single class, this is o^a sigmoid((c - b) / t).

    Args:
        objectness: (N,) highest score o of each box in [0, 1] by the decoder.
        embeddings: (N, C) of the boxes by the prompt encoder.
        prompts: The prompts, as given to the encoder of the detector.
        settings: The numbers t, b and a.

    Returns:
        (N, R) in [0, 1] for the R reported classes.
    """
    # Compare the boxes with all offered classes.
    offered = prompts.offered
    classes = F.normalize(prompts.class_embeddings()[offered].float(), dim=-1)
    cosine = F.normalize(embeddings.float(), dim=-1) @ classes.t()
    # Let the classes compete with each other and with the background.
    nothing = torch.full_like(cosine[:, :1], settings.background)
    share = (torch.cat([cosine, nothing], 1) / settings.temperature).softmax(1)[:, :-1]
    scores = objectness[:, None].float() ** settings.objectness_power * share
    # Keep the reported classes.
    return scores[:, ~prompts.negative[offered]]


def rescored_detections(
    model: 'DINOR1',
    features: ImageFeatures,
    samples: list[DetDataSample],
    prompt_sets: Sequence[PromptSet],
    passes: Sequence[tuple[DetectorOutput, list[PromptSet]]],
    settings: Rescoring,
    rescale: bool,
) -> list[InstanceData]:
    """Detections of all passes, scored by :func:`rescore` for the whole vocabulary.

    Args:
        model: The detector.
        features: Features of the batch.
        samples: Image sizes and scale factors.
        prompt_sets: Per image, the whole vocabulary.
        passes: The decoder's output of each pass, and the prompts of each image in it.
        settings: Settings of the scores.
        rescale: Return pixels of the original image instead of the network input.

    Returns:
        Per image, the detections in the form of the head's ``predict``.
    """
    # Collect the boxes of all passes, and the highest score that their pass gives them.
    objectness, boxes = [], []
    for output, offered in passes:
        logits, predicted = model.bbox_head(output, layers=[len(output.hidden_states) - 1])
        objectness.append(torch.stack([_highest(row, part) for row, part in zip(logits[0], offered, strict=True)]))
        boxes.append(predicted[0].float())
    scores, cxcywh = torch.cat(objectness, 1), torch.cat(boxes, 1)
    # Encode the boxes like exemplars.
    shapes = [sample.img_shape for sample in samples]
    sizes = cxcywh.new_tensor([[width, height, width, height] for height, width in shapes])
    pixels = bbox_cxcywh_to_xyxy(cxcywh) * sizes[:, None]
    embeddings = model.encode_boxes(features, list(pixels), shapes).view(*scores.shape, -1)
    # Compare them with the prompts.
    found = []
    for i, (prompts, sample) in enumerate(zip(prompt_sets, samples, strict=True)):
        rescored = rescore(scores[i], embeddings[i], prompts, settings)
        found.append(model.bbox_head.select_detections(rescored, cxcywh[i], prompts, sample.metainfo, rescale))
    return found


def _highest(logits: Tensor, offered: PromptSet) -> Tensor:
    """Highest score (N,) of queries with logits (N, K) for the classes of a pass; 0 if it searches for nothing."""
    of_class = offered.mask & (offered.labels >= 0)
    logits = logits[:, : len(of_class)].float().masked_fill(~of_class, float('-inf'))
    return logits.amax(1).sigmoid()
