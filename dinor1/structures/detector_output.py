"""Output of the detector's transformer, from which the head computes losses or detections."""

from typing import NamedTuple

from torch import Tensor

from .prompt_set import PromptBatch
from .query_selection import QuerySelection


class DenoisingGroups(NamedTuple):
    """Layout of the denoising queries, which come before the selected queries (DINO, arXiv 2203.03605).

    Attributes:
        num_queries: Number of denoising queries per image, over all groups.
        num_groups: Number of groups; each holds a positive and a negative query per object.
    """

    num_queries: int
    num_groups: int


class DetectorOutput(NamedTuple):
    """Output of the decoder, with the prompts and the selected tokens that the decoder started from.

    Attributes:
        hidden_states: (L, bs, num_dn + N, C) of the L decoder layers, after the final norm; denoising queries first.
        references: (1 + L, bs, num_dn + N, 4) normalised cxcywh in [0, 1]: the initial boxes, then the boxes refined by
            each layer. The head predicts the boxes of layer i from ``references[i]`` and ``hidden_states[i]``.
        prompts: The prompts after the encoder.
        selection: The encoder tokens that became the N selected queries.
        denoising: Layout of the denoising queries; None outside training.
        gate_logits: (G, bs, N, K) logits of the encoder's G gates at the selected tokens, for their loss; None outside
            training, and without gates.
        branch_states: (L, bs, num_dn + N, C) of the decoder layers before their self-attention, after the final norm,
            for the one-to-many loss; None if the decoder has the usual order.
    """

    hidden_states: Tensor
    references: Tensor
    prompts: PromptBatch
    selection: QuerySelection
    denoising: DenoisingGroups | None = None
    gate_logits: Tensor | None = None
    branch_states: Tensor | None = None
