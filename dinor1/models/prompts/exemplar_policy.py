"""A learned policy over the exemplars of a class, with higher probabilities for exemplars that are better prompts."""

import torch
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.utils.precision import at_least_float32, full_precision


@MODELS.register_module()
class ExemplarPolicy(nn.Module):
    """Probabilities pi = softmax(w^T LN(v)) over the exemplars v of a class.

    It is trained by :class:`~dinor1.models.losses.ExemplarGroupLoss` with the loss -sum_g pi_g A_g, the exact mean over
    the choices instead of a sample, and no gradient to the exemplars. At test time it weights the exemplars of a class,
    see ``exemplar_weighting`` of :class:`dinor1.evaluation.VisualGeneric`. It starts with equal probabilities.

    Args:
        embed_dims: Width C.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dims, elementwise_affine=False)
        self.score = nn.Linear(embed_dims, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, embeddings: Tensor, valid: Tensor) -> Tensor:
        """Probabilities of the exemplars of K classes, at least in single precision.

        Args:
            embeddings: (K, G, C) output of the prompt encoder; no gradient reaches it.
            valid: (K, G) True = there is such an exemplar.

        Returns:
            (K, G), rows sum to 1; 0 where there is no exemplar.
        """
        with full_precision(embeddings.device):
            score = self.score(self.norm(at_least_float32(embeddings.detach()))).squeeze(-1)
            # A class without exemplars would have a softmax over nothing.
            lowest = torch.finfo(score.dtype).min
            return score.masked_fill(~valid, lowest).softmax(-1) * valid
