"""Alignment of visual prompts with class names.

DINO-R1, arXiv 2505.24025, language alignment, a symmetric InfoNCE with cosines and a learned scale. It makes visual and
text prompts interchangeable. DETR-ViP (arXiv 2604.14684) classifies visual prompts among text prompts only, with dot
products that are not normalised, and lets the gradient reach the map of the text.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError

PAIRS = ('class', 'image')


def alignment_loss(
    visual: Tensor,
    text: Tensor,
    targets: Tensor,
    scale: Tensor | float,
    normalize: bool = True,
    symmetric: bool = True,
    *,
    told_apart: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the pairs of a visual prompt and the text of its class.

    With s_ac = ``scale`` * <v_a, t_c>, the mean over a of -log softmax_c(s_ac) at c = y_a. The symmetric form averages
    this with the mean over a of -log softmax_b(s_b,y_a) at b = a, where b does not run over other prompts of the same
    class.

    Args:
        visual: (A, C) visual prompts, A >= 1.
        text: (T, C) text prompts of different classes.
        targets: (A,) row of ``text`` with the class of each visual prompt.
        scale: Inverse temperature.
        normalize: Use cosines; False: dot products.
        symmetric: Add the classification of text among visual prompts.
        told_apart: (A, T) False = visual prompt a may be an instance of class c, c != y_a; the pair is left out of both
            sums. Default: all True.

    Returns:
        Scalar; 0 for a single visual prompt and a single class.
    """
    # Compute scaled similarities, and leave out pairs that may belong together.
    if normalize:
        visual, text = F.normalize(visual, dim=-1), F.normalize(text, dim=-1)
    similarity = scale * visual @ text.t()
    if told_apart is not None:
        similarity = similarity.masked_fill(~told_apart, float('-inf'))
    # Classify the visual prompts.
    loss = F.cross_entropy(similarity, targets)
    if not symmetric:
        return loss
    # Classify the text of each visual prompt among the visual prompts, without the others of its class.
    index = torch.arange(len(visual), device=visual.device)
    repeated = (targets[:, None] == targets) & (index[:, None] != index)
    reverse = similarity[:, targets].masked_fill(repeated, float('-inf')).t()
    return (loss + F.cross_entropy(reverse, index)) / 2


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
    index = torch.arange(len(visual), device=visual.device)
    return alignment_loss(visual, text, index, log_scale.exp(), told_apart=told_apart)


@MODELS.register_module()
class LanguageAlignment(nn.Module):
    """:func:`alignment_loss` with settings; the defaults are those of DINO-R1.

    Args:
        loss_weight: Weight of the loss; DINO-R1's release fine-tunes on COCO with 100, DETR-ViP uses 1.
        normalize: Use cosines. Dot products of prompts that leave a layer norm have a standard deviation near
            sqrt(C), so that the loss starts in the hundreds and dominates a clipped gradient.
        symmetric: Also classify text among visual prompts.
        scale: Inverse temperature, > 0; None: a learned scale that starts at 1 / 0.07. DETR-ViP uses 10.
        text_gradient: Train the linear map of the text too; the language model is always frozen.
        pairs: ``class``: one visual prompt per class, the mean over the boxes of the batch. ``image``: one for each
            image and class.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        loss_weight: float = 100.0,
        normalize: bool = True,
        symmetric: bool = True,
        scale: float | None = None,
        text_gradient: bool = False,
        pairs: str = 'class',
    ) -> None:
        super().__init__()
        # Check the arguments.
        if not 0 <= loss_weight < math.inf:
            raise InputError(f'LanguageAlignment: loss_weight must be a finite number of at least 0, got {loss_weight}')
        if scale is not None and not 0 < scale < math.inf:
            raise InputError(f'LanguageAlignment: scale must be greater than 0, or None to learn it, got {scale}')
        if pairs not in PAIRS:
            raise InputError(f"LanguageAlignment: pairs must be 'class' or 'image', got {pairs!r}")
        self.loss_weight, self.normalize, self.symmetric = loss_weight, normalize, symmetric
        self.scale, self.text_gradient, self.pairs = scale, text_gradient, pairs
        # A learned scale starts as in CLIP.
        if scale is None:
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(
        self, visual: Tensor, text: Tensor, targets: Tensor | None = None, told_apart: Tensor | None = None
    ) -> Tensor:
        """Weighted :func:`alignment_loss`.

        Args:
            visual: (A, C).
            text: (T, C); it gets a gradient only with ``text_gradient``.
            targets: (A,) row of ``text`` of each visual prompt. Default: row a for prompt a.
            told_apart: (A, T), see :func:`alignment_loss`.
        """
        targets = torch.arange(len(visual), device=visual.device) if targets is None else targets
        text = text if self.text_gradient else text.detach()
        scale = self.logit_scale.exp() if self.scale is None else self.scale
        return self.loss_weight * alignment_loss(
            visual, text, targets, scale, self.normalize, self.symmetric, told_apart=told_apart
        )

    def zero(self, instances: Tensor) -> Tensor:
        """Loss 0 of a batch without boxes, with the embeddings (n, C) and the scale in its graph, as DDP requires."""
        loss: Any = instances.sum() * 0
        return loss if self.scale is not None else loss + self.logit_scale * 0
