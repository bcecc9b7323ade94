"""The frozen model that GRQO compares with."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn


class ReferenceModel:
    """A frozen detector that is asked for the objectness of tokens.

    It is no ``nn.Module``, so that a detector can refer to it without containing it: its weights must reach neither
    optimizer, nor checkpoint, nor DDP's buckets.

    Args:
        model: A detector with ``objectness(tokens, batch_inputs, batch_data_samples, *shared) -> (bs, N)``: the best
            class logit of the encoder tokens (bs, N), where ``shared`` are the random choices of the student that the
            reference has to repeat. It is frozen here; its mode and weights are managed by the caller.
        dtype: Autocast of the reference alone; None: the precision of the student.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None = None) -> None:
        # Convolutions without gradient are up to a third faster in this layout on a CPU.
        self.model: Any = model.requires_grad_(False).to(memory_format=torch.channels_last)
        self.dtype = dtype

    def logits(self, tokens: Tensor, batch_inputs: Tensor, batch_data_samples: list, *shared: Any) -> Tensor:
        """(bs, N) logits at the tokens (bs, N) which the student selected."""
        precision: contextlib.AbstractContextManager = contextlib.nullcontext()
        if self.dtype is not None:
            precision = torch.autocast(batch_inputs.device.type, dtype=self.dtype)
        with torch.no_grad(), precision:
            return self.model.objectness(tokens, batch_inputs, batch_data_samples, *shared)
