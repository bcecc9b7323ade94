"""The prompts of a training batch: which exemplars they have, and which images they are offered to."""

from collections.abc import Sequence

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from .config import PromptsConfig
from .exemplar_weights import per_image_weights, prototype_weights
from .label_scope import BatchScope, batch_scope
from .sampling import PromptDraw, common_vocabulary, drop_prompts, sample_prompts


def draw_prompts(
    samples: Sequence[DetDataSample], config: PromptsConfig
) -> tuple[PromptDraw, list[Tensor], BatchScope | None]:
    """Draw the prompts of a batch, one per class.

    Args:
        samples: Samples with ground truth, and class names if the model needs them.
        config: How to sample.

    Returns:
        The draw; per image the class indices (m,) of its boxes, numbered as in the draw; and what the annotations say
        about the prompts, None if every image was annotated for every class.
    """
    # Draw one exemplar of each class.
    labels, classes = common_vocabulary(
        [sample.gt_instances.labels for sample in samples], [sample.get('text') for sample in samples]
    )
    draw = sample_prompts(labels, classes)
    # Offer the prompts to the images that were annotated for the class, or only some of them.
    scope = batch_scope(samples, labels, draw)
    offered = None if scope is None else scope.offered
    if config.prompt_dropout:
        if offered is None:
            offered = torch.ones(len(labels), len(draw.labels), dtype=torch.bool, device=draw.labels.device)
        offered = drop_prompts(offered, config.prompt_dropout)
    # Draw several exemplars instead, unless the batch has no box.
    weights = None
    if draw.labels[0] >= 0:
        if config.prompt_sampling == 'class_prototype':
            weights = prototype_weights(labels, draw.labels, config.exclude_self)
        elif config.prompt_sampling == 'per_image':
            weights = per_image_weights(labels, draw.labels)
    return draw._replace(offered=offered, weights=weights), labels, scope
