"""Several exemplars per class that score the queries of a batch without being offered as prompts."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dinor1.structures import EncoderOutput, PromptBatch


class ExemplarGroup(NamedTuple):
    """Exemplars of K classes, up to G per class.

    Attributes:
        box: (K, G) index into the boxes of the batch, in the order of the images; 0 where there is none.
        image: (K, G) index of the image that the box lies on.
        valid: (K, G) True = there is such an exemplar; these come first.
    """

    box: Tensor
    image: Tensor
    valid: Tensor


def draw_exemplar_group(labels: Sequence[Tensor], size: int) -> ExemplarGroup:
    """Draw up to ``size`` boxes of each class in the batch, without replacement, with torch's global generator.

    Args:
        labels: Per image (m,) class indices; at least one box in all.
        size: Number G of exemplars per class, at least 1.

    Returns:
        The exemplars of the K distinct classes, ascending. A class with fewer boxes than ``size`` has all of them.
    """
    # Mark the boxes of each class.
    flat = torch.cat(list(labels))
    counts = torch.tensor([len(label) for label in labels], device=flat.device)
    image = torch.arange(len(labels), device=flat.device).repeat_interleave(counts)
    member = flat.unique()[:, None] == flat
    # Take the first ones in a random order.
    order = torch.rand(member.shape).to(flat.device).masked_fill(~member, 2.0).argsort(1)[:, :size]
    valid = member.gather(1, order)
    missing = size - order.shape[1]
    box = F.pad(order.masked_fill(~valid, 0), (0, max(missing, 0)))
    return ExemplarGroup(box, image[box], F.pad(valid, (0, max(missing, 0)), value=False))


def append_hidden(prompts: PromptBatch, embeddings: Tensor) -> PromptBatch:
    """Append prompts (N, C) that attend to the images, while nothing attends to them.

    Args:
        prompts: Prompts of the batch.
        embeddings: (N, C), the same for every image.
    """
    bs, num_prompts = prompts.mask.shape
    number = len(embeddings)
    extra = embeddings.to(prompts.embeddings.dtype).expand(bs, -1, -1)
    groups = torch.arange(num_prompts, num_prompts + number, device=embeddings.device)
    # A prompt that is not offered is masked as a key of the image's attention, but attends to the image itself.
    hidden = torch.zeros(bs, number, dtype=torch.bool, device=embeddings.device)
    return PromptBatch(
        torch.cat([prompts.embeddings, extra], 1),
        torch.cat([prompts.mask, hidden], 1),
        torch.cat([prompts.groups, groups.expand(bs, -1)], 1),
    )


def split_hidden(encoded: EncoderOutput, num_prompts: int) -> tuple[EncoderOutput, Tensor]:
    """Undo :func:`append_hidden` after the encoder.

    Args:
        encoded: Output of the encoder for K + N prompts.
        num_prompts: Number K of prompts before the appended ones.

    Returns:
        The output for the K prompts alone, and the refined embeddings (bs, N, C) of the appended ones.
    """
    prompts = encoded.prompts
    own = PromptBatch(
        prompts.embeddings[:, :num_prompts], prompts.mask[:, :num_prompts], prompts.groups[:, :num_prompts]
    )
    gates = tuple(gate[..., :num_prompts] for gate in encoded.gates)
    gate_logits = tuple(logits[..., :num_prompts] for logits in encoded.gate_logits)
    return EncoderOutput(encoded.memory, own, gates, gate_logits), prompts.embeddings[:, num_prompts:]
