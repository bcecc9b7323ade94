"""The frozen reference model of GRQO."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn


class _Objectness(nn.Module):
    """``model.objectness`` as a module, so that module hooks, for instance of FLOP counters, see its begin and end."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, *args: Any) -> Tensor:
        objectness: Tensor = self.model.objectness(*args)
        return objectness


class ReferenceModel:
    """A frozen detector that computes the objectness of given tokens.

    This is not an ``nn.Module``: a detector that holds it must not register its weights, which would then reach the
    optimizer, checkpoints and the buckets of DDP.

    Args:
        model: A detector with ``objectness(tokens, batch_inputs, batch_data_samples, *shared) -> (bs, N)``: the highest
            class logit of the encoder tokens (bs, N), where ``shared`` are the choices of the student that the
            reference must repeat: random draws, and gates. Its parameters are frozen here; the caller manages its mode
            and weights.
        dtype: Autocast dtype of the reference model only; None: the precision of the student.
        own_draw: Whether the reference draws exemplars of its own for the student's classes, as in the release, instead
            of sharing the student's. The detector makes the draw.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None = None, own_draw: bool = False) -> None:
        # On a CPU, convolutions without gradient are up to a third faster in this memory layout.
        self.model: Any = model.requires_grad_(False).to(memory_format=torch.channels_last)
        self.dtype, self.own_draw = dtype, own_draw
        self._objectness = _Objectness(self.model)

    def logits(self, tokens: Tensor, batch_inputs: Tensor, batch_data_samples: list, *shared: Any) -> Tensor:
        """Objectness logits of the tokens that the student selected.

        Args:
            tokens: (bs, N) token indices.
            batch_inputs: (bs, 3, H, W) images.
            batch_data_samples: The student's samples.
            *shared: Choices of the student, see the class docstring.

        Returns:
            (bs, N), without gradient.
        """
        # Choose the precision, and score the tokens.
        precision: contextlib.AbstractContextManager = contextlib.nullcontext()
        if self.dtype is not None:
            precision = torch.autocast(batch_inputs.device.type, dtype=self.dtype)
        with torch.no_grad(), precision:
            logits: Tensor = self._objectness(tokens, batch_inputs, batch_data_samples, *shared)
        return logits
