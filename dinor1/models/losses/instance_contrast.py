"""Contrast of instances: the query of an exemplar is recognised among the queries of other exemplars.

X. Wei et al., *OPUS*, arXiv 2608.30247.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError
from dinor1.utils.precision import at_least_float32, full_precision

from .matching import Match


class Exemplars(NamedTuple):
    """Objects of a batch that its prompts were made of.

    Attributes:
        image: (E,) index of the image.
        target: (E,) index among the ground truth of the image.
        embedding: (E, C) output of the prompt encoder for the object's box.
    """

    image: Tensor
    target: Tensor
    embedding: Tensor


def instance_contrast_loss(queries: Tensor, prompts: Tensor, tau: float) -> Tensor:
    """Symmetric InfoNCE between row ``i`` of ``queries`` and row ``i`` of ``prompts``.

    Args:
        queries: (P, C), one per exemplar.
        prompts: (P, C) of the same exemplars.
        tau: Temperature > 0 of the cosines.

    Returns:
        Scalar; 0 for at most one exemplar.
    """
    if not len(queries):
        return (queries.sum() + prompts.sum()) * 0
    similarity = F.normalize(queries, dim=-1) @ F.normalize(prompts, dim=-1).t() / tau
    index = torch.arange(len(queries), device=queries.device)
    return (F.cross_entropy(similarity, index) + F.cross_entropy(similarity.t(), index)) / 2


@MODELS.register_module()
class InstanceContrast(nn.Module):
    """:func:`instance_contrast_loss` between matched queries and exemplars, each through a linear projection.

    All decoder layers share the projections.

    Args:
        embed_dims: Width C.
        weight: Weight of the loss, > 0.
        tau: Temperature, > 0.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(self, embed_dims: int, weight: float = 1.0, tau: float = 0.07) -> None:
        super().__init__()
        if min(weight, tau) <= 0:
            raise InputError(
                'model.bbox_head.instance_contrast: weight and tau must be greater than 0, got '
                f'weight={weight} and tau={tau}'
            )
        self.weight, self.tau = weight, tau
        self.query_proj = nn.Linear(embed_dims, embed_dims)
        self.prompt_proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, hidden_states: Tensor, match: Match, exemplars: Exemplars) -> list[Tensor]:
        """Loss of each decoder layer, computed at least in single precision.

        Args:
            hidden_states: (L, bs, Q, C) of the queries without the denoising queries.
            match: Assignment of queries to objects; stages 0 to L - 1 are the decoder layers.
            exemplars: Exemplars of the batch; those without a matched query are left out.

        Returns:
            L scalars.
        """
        with full_precision(hidden_states.device):
            # Project the exemplars and all queries: a batch without exemplars keeps both projections in the graph.
            prompts = self.prompt_proj(at_least_float32(exemplars.embedding))
            queries = self.query_proj(at_least_float32(hidden_states))
            losses = []
            for layer, own in enumerate(queries):
                # Pair the exemplars with the queries that were matched to the same object.
                matched = (match.stage == layer).nonzero().flatten()
                same = (match.image[matched] == exemplars.image[:, None]) & (
                    match.target[matched] == exemplars.target[:, None]
                )
                exemplar, index = same.nonzero().unbind(-1)
                chosen = matched[index]
                loss = instance_contrast_loss(
                    own[match.image[chosen], match.query[chosen]], prompts[exemplar], self.tau
                )
                losses.append(self.weight * loss)
        return losses
