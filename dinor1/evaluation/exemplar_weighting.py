"""Weights of the exemplars of a class from their success on the other support images.

A mean over exemplars gives good and bad exemplars the same weight. The images of the exemplars have boxes of the class.
Therefore each exemplar can be tested on the images of the other exemplars, also for classes that never occur in
training. This is not in the paper of DINO-R1.

- reward      R_g = mean log p at the matched queries - 0.5 mean log-odds of the 5 best false positives
- advantage   A_g = (R_g - mean_g R) / (std_g R + 0.05)
- prompt      sum_g softmax(A / tau)_g v_g
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.dataset import BaseDataset, pseudo_collate
from torch import Tensor, nn
from torchvision.ops import box_iou

from dinor1.models.losses import hungarian_match, matching_cost, pad_targets
from dinor1.structures import PromptBatch, PromptSet
from dinor1.utils.dataclass_config import with_defaults
from dinor1.utils.errors import InputError
from dinor1.utils.precision import full_precision

from .visual_generic import Exemplar, candidates_of


@dataclass(frozen=True)
class ExemplarWeighting:
    """Settings of the weights.

    Attributes:
        source: ``trials``: weights from the success on the other support images. ``policy``: probabilities of the
            model's learned policy, :class:`~dinor1.models.prompts.ExemplarPolicy`, without trials; the other settings
            have no effect.
        tau: Temperature > 0 of the advantages; a large one gives equal weights, the plain mean.
        num_false_positives: Number of false positives per image that count, at least 1.
        false_positive_weight: Weight of their log-odds, >= 0.

    Raises:
        InputError: a value is out of range.
    """

    source: str = 'trials'
    tau: float = 1.0
    num_false_positives: int = 5
    false_positive_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.source not in ('trials', 'policy'):
            raise InputError(f"exemplar_weighting: source must be 'trials' or 'policy', got {self.source!r}")
        if not (0 < self.tau < math.inf and 0 <= self.false_positive_weight < math.inf):
            raise InputError(
                'exemplar_weighting: expected tau > 0 and false_positive_weight >= 0, got '
                f'{self.tau} and {self.false_positive_weight}'
            )
        if self.num_false_positives < 1:
            raise InputError(
                f'exemplar_weighting: num_false_positives must be at least 1, got {self.num_false_positives}'
            )


def read_weighting(given: Mapping[str, Any] | None) -> ExemplarWeighting | None:
    """Settings from ``exemplar_weighting`` of a protocol; None: a plain mean.

    Raises:
        InputError: a key is unknown, or a value is out of range.
    """
    return None if given is None else with_defaults(given, ExemplarWeighting(), 'exemplar_weighting')


def rewards_on_image(
    logits: Tensor, boxes: Tensor, truth: Tensor, img_hw: tuple[int, int], settings: ExemplarWeighting
) -> Tensor:
    """Rewards of exemplars of one class on an image that shows the class.

    Args:
        logits: (Q, G) logits of the queries for each exemplar.
        boxes: (Q, 4) boxes of the queries, normalised cxcywh.
        truth: (m, 4) all boxes of the class on the image, pixel xyxy; at least one.
        img_hw: Height and width of the image in pixels.
        settings: Definition of the success.

    Returns:
        (G,).
    """
    # Match the queries to the boxes for every exemplar separately, as detections of one class.
    logits, boxes = logits.float(), boxes.float()
    num_queries, num_exemplars = logits.shape
    targets = pad_targets([truth.float()], [truth.new_ones(len(truth), 1).float()], [img_hw])
    with full_precision(logits.device):
        cost = matching_cost(logits.t()[:, None, :, None], boxes.expand(num_exemplars, 1, -1, -1), targets)
    match = hungarian_match(cost, targets)
    # Average the logarithms of the probabilities of the matched queries.
    found = nn.functional.logsigmoid(logits.t()[match.stage, match.query])
    success = found.new_zeros(num_exemplars).index_add(0, match.stage, found) / min(len(truth), num_queries)
    # Average the log-odds of the best false positives: queries away from all boxes of the class.
    corners = bbox_cxcywh_to_xyxy(boxes) * boxes.new_tensor([img_hw[1], img_hw[0]] * 2)
    away = (box_iou(corners, truth.float()) <= 0.5).all(1)
    false_positives = away[:, None].repeat(1, num_exemplars)
    false_positives[match.query, match.stage] = False
    highest = logits.masked_fill(~false_positives, -math.inf).topk(min(settings.num_false_positives, num_queries), 0)
    counted = highest.values > -math.inf
    mean = highest.values.masked_fill(~counted, 0.0).sum(0) / counted.sum(0).clamp(min=1)
    return success - settings.false_positive_weight * mean


def policy_weights(rewards: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Weights of exemplars, a softmax of their advantages within each class.

    Args:
        rewards: (n,); NaN where an exemplar could not be tried, which then has the mean advantage 0.
        labels: (n,) class indices.
        tau: Temperature > 0.

    Returns:
        (n,) > 0; those of a class sum to 1.
    """
    weights = torch.ones_like(rewards)
    for label in labels.unique():
        own = labels == label
        # Standardise the rewards of the exemplars that were tried; the others have the mean, an advantage of 0.
        known = own & ~rewards.isnan()
        advantage = torch.zeros_like(rewards)
        if bool(known.any()):
            advantage[known] = (rewards[known] - rewards[known].mean()) / (rewards[known].std(correction=0) + 0.05)
        weights[own] = (advantage[own] / tau).softmax(0)
    return weights


@torch.no_grad()
def weigh_exemplars(
    model: nn.Module,
    dataset: BaseDataset,
    exemplars: Sequence[Exemplar],
    embeddings: Tensor,
    labels: Tensor,
    settings: ExemplarWeighting,
    progress: Callable[[], None] | None = None,
) -> Tensor:
    """Try each exemplar on the images of the other exemplars of its class, and weight it by its success.

    The exemplars of a class from other images are offered together, as separate prompts; this reads all boxes of the
    class on the images of the exemplars, more than the exemplars themselves.

    Args:
        model: A :class:`dinor1.models.DINOR1`; its mode (train or eval) is restored.
        dataset: The data set that the exemplars were drawn from, with a test pipeline.
        exemplars: From :func:`~dinor1.evaluation.visual_generic.draw_exemplars`.
        embeddings: (n, C) from :func:`~dinor1.evaluation.visual_generic.embed_exemplars`.
        labels: (n,) class indices of the rows.
        settings: Definition of the success, and the temperature.
        progress: Called after each image.

    Returns:
        (n,) > 0; the weights of a class sum to 1. An exemplar whose class has no other image has the mean advantage.

    Raises:
        InputError: the model has no learned policy, but ``settings`` require one.
    """
    if settings.source == 'policy':
        return _learned_weights(model, embeddings, labels)
    # Find the image of every row: rows are exemplars, or pairs of an image and a class.
    units = [(exemplar.index, exemplar.label) for exemplar in exemplars]
    if len(units) != len(embeddings):
        units = list(dict.fromkeys(units))
    images = torch.tensor([index for index, _ in units])
    total, count = torch.zeros(len(units)), torch.zeros(len(units))
    was_training = model.training
    model.eval()
    try:
        for index, group in groupby(sorted(set(units)), key=lambda unit: unit[0]):
            # Encode the image.
            data = model.data_preprocessor(pseudo_collate([dataset[index]]), False)
            sample, inputs = data['data_samples'][0], data['inputs']
            features = model.encode_image(inputs, [sample])
            known = candidates_of(dataset.get_data_info(index), index)
            for _, label in group:
                # Offer the exemplars of the class on other images.
                others = ((labels == label) & (images != index)).nonzero().flatten()
                if not len(others):
                    continue
                rows = embeddings[others].to(inputs.device)
                prompts = PromptSet.from_classes(rows, [str(i) for i in others.tolist()])
                output = model.transform(features, PromptBatch.stack([prompts]))
                logits, boxes = model.bbox_head(output, layers=[len(output.hidden_states) - 1])
                # Compare the detections with the boxes of the class on this image.
                own = [exemplar.bbox for exemplar in known if exemplar.label == label]
                truth = torch.tensor(own, dtype=torch.float32, device=inputs.device)
                truth = truth * truth.new_tensor(sample.scale_factor).repeat(2)
                rewards = rewards_on_image(logits[0, 0], boxes[0, 0], truth, sample.img_shape, settings).cpu()
                total[others] += rewards
                count[others] += 1
            if progress is not None:
                progress()
    finally:
        model.train(was_training)
    return policy_weights(total / count, labels, settings.tau)  # 0 / 0 is NaN: not tried


def _learned_weights(model: nn.Module, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Probabilities (n,) of the model's policy; those of a class sum to 1."""
    policy: Any = model.exemplar_policy
    if policy is None:
        raise InputError(
            "exemplar_weighting: source='policy' needs a model with model.prompts.exemplar_policy; use source='trials'"
        )
    weights = torch.ones(len(labels))
    device = next(policy.parameters()).device
    # The policy compares the exemplars of one class.
    for label in labels.unique():
        own = labels == label
        rows = embeddings[own][None].to(device)
        weights[own] = policy(rows, torch.ones(rows.shape[:2], dtype=torch.bool, device=device))[0].cpu()
    return weights
