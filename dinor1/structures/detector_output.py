"""What a detector computes before its head turns it into losses or detections."""

from typing import NamedTuple

from torch import Tensor

from .prompt_set import PromptBatch
from .query_selection import QuerySelection


class DenoisingGroups(NamedTuple):
    """How the denoising queries at the front of the decoder's queries are arranged (DINO, arXiv 2203.03605).

    Attributes:
        num_queries: Denoising queries of an image, all groups together.
        num_groups: Groups; each holds a positive and a negative query per object.
    """

    num_queries: int
    num_groups: int


class DetectorOutput(NamedTuple):
    """Output of the decoder, with what it started from.

    Attributes:
        hidden_states: (L, bs, num_dn + N, C) of the L decoder layers, denoising queries first.
        references: (1 + L, bs, num_dn + N, 4) boxes that each layer refines, normalised cxcywh; the last are those
            that the last layer predicts.
        prompts: The prompts after the encoder.
        selection: The tokens that the N queries started from.
        denoising: Of the denoising queries; None outside training.
    """

    hidden_states: Tensor
    references: Tensor
    prompts: PromptBatch
    selection: QuerySelection
    denoising: DenoisingGroups | None = None
