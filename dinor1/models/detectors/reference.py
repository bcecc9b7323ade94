"""What GRQO asks of a detector: the objectness of tokens, and a place for the reference model's."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..losses import GRQOSettings


class ReferenceMixin:
    """Adds the reference slot to a two-stage query-based detector.

    The reference model is not a sub-module: it must reach neither optimizer, nor checkpoint, nor DDP's buckets. So the
    detector keeps its bound ``objectness`` method only; :class:`dinor1.engine.ReferenceModelHook` owns the model.

    The detector provides ``objectness(tokens, batch_inputs, batch_data_samples, *shared) -> (bs, N)``: the best class
    logit of the encoder tokens (bs, N), where ``shared`` are the random choices of the student that the reference has
    to repeat. Tokens are named so that it may leave out what only others need.
    """

    reference: Callable[..., Tensor] | None = None
    reference_dtype: torch.dtype | None = None  # autocast of the reference; None: as the student

    def set_grqo(self, settings: GRQOSettings | None) -> None:
        """Enter the GRQO stage with ``settings``, or leave it with None."""
        self.bbox_head.grqo = settings

    def set_reference(self, model: nn.Module | None, dtype: torch.dtype | None = None) -> None:
        """Freeze ``model``, a detector of this kind, and refer to it; None: refer to nothing.

        Args:
            model: Its mode and weights are the caller's affair.
            dtype: Autocast of the reference alone; None: the precision of the student.
        """
        if model is not None:
            # Convolutions without gradient are up to a third faster so on a CPU.
            model.requires_grad_(False).to(memory_format=torch.channels_last)
        self.reference = None if model is None else model.objectness
        self.reference_dtype = dtype

    def reference_logits(
        self, selected: Tensor, batch_inputs: Tensor, batch_data_samples: list, *shared: Any
    ) -> Tensor | None:
        """The reference's logits (bs, Q) at the tokens (bs, Q) which the student selected; None without reference."""
        if self.reference is None:
            return None
        precision = contextlib.nullcontext()
        if self.reference_dtype is not None:
            precision = torch.autocast(batch_inputs.device.type, dtype=self.reference_dtype)
        with torch.no_grad(), precision:
            return self.reference(selected, batch_inputs, batch_data_samples, *shared)
