"""Alignment of visual prompts with class names: symmetric InfoNCE.

DINO-R1, arXiv 2505.24025, language alignment. It makes visual and text prompts interchangeable.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError


def symmetric_info_nce(visual: Tensor, text: Tensor, log_scale: Tensor, told_apart: Tensor | None = None) -> Tensor:
    """InfoNCE in both directions between row ``i`` of ``visual`` and row ``i`` of ``text``.

    Args:
        visual: (K, C) one embedding per class.
        text: (K, C) of the same classes.
        log_scale: Logarithm of the inverse temperature, a scalar.
        told_apart: (K, K) True = row i of ``visual`` is not an instance of the class of row j of ``text``, or i = j;
            other pairs are left out of both sums. Default: all True.

    Returns:
        Scalar; 0 for a single class.
    """
    # Compute scaled cosines, and leave out pairs that may belong together.
    similarity = log_scale.exp() * F.normalize(visual, dim=-1) @ F.normalize(text, dim=-1).t()
    if told_apart is not None:
        similarity = similarity.masked_fill(~told_apart, float('-inf'))
    # Classify rows and columns: the matching pair is on the diagonal.
    target = torch.arange(len(visual), device=visual.device)
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.t(), target)) / 2


@MODELS.register_module()
class LanguageAlignment(nn.Module):
    """:func:`symmetric_info_nce` with a learned scale, initialised at ln(1 / 0.07).

    Args:
        loss_weight: Weight of the loss; the release fine-tunes on COCO with 100.

    Raises:
        InputError: the weight is negative, infinite or NaN.
    """

    def __init__(self, loss_weight: float = 100.0) -> None:
        super().__init__()
        if not 0 <= loss_weight < math.inf:
            raise InputError(f'LanguageAlignment: loss_weight must be a finite number of at least 0, got {loss_weight}')
        self.loss_weight = loss_weight
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, visual: Tensor, text: Tensor, told_apart: Tensor | None = None) -> Tensor:
        """Weighted :func:`symmetric_info_nce` of (K, C) embeddings; no gradient reaches the text."""
        return self.loss_weight * symmetric_info_nce(visual, text.detach(), self.logit_scale, told_apart)
