"""Output of the encoder."""

from typing import NamedTuple

import torch
from torch import Tensor

from .prompt_set import PromptBatch


class EncoderOutput(NamedTuple):
    """Refined image tokens and prompts, and the gates of their fusion.

    Attributes:
        memory: (bs, T, C) image tokens.
        prompts: The refined prompts.
        gates: For each gated fusion block (bs, 1, K) True = image tokens attend to the prompt. Empty without gates.
        gate_logits: For each gated fusion block (bs, T, K) similarities that its gates were computed from; -inf where a
            prompt is not offered. Empty without gates, and if the gates were given.
    """

    memory: Tensor
    prompts: PromptBatch
    gates: tuple[Tensor, ...] = ()
    gate_logits: tuple[Tensor, ...] = ()

    def gate_logits_at(self, tokens: Tensor) -> Tensor | None:
        """Logits (G, bs, N, K) of the G gates at tokens (bs, N); None: there are none."""
        if not self.gate_logits:
            return None
        index = tokens[..., None].expand(-1, -1, self.gate_logits[0].shape[-1])
        return torch.stack([logits.gather(1, index) for logits in self.gate_logits])
