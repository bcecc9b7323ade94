"""What GRQO asks of a detector: the objectness of all tokens, and a place for the reference model's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..losses import GRQOSettings


class ReferenceMixin:
    """Adds the reference slot to a two-stage query-based detector.

    The reference model is not a sub-module: it must reach neither optimizer, nor checkpoint, nor DDP's buckets. So the
    detector keeps its bound ``objectness`` method only; :class:`dinor1.engine.ReferenceModelHook` owns the model.

    The detector provides ``objectness(batch_inputs, batch_data_samples, *shared) -> (bs, T)``: the best class logit of
    every encoder token, where ``shared`` are the random choices of the student that the reference has to repeat.
    """

    reference: Callable[..., Tensor] | None = None

    def set_grqo(self, settings: GRQOSettings | None) -> None:
        """Enter the GRQO stage with ``settings``, or leave it with None."""
        self.bbox_head.grqo = settings

    def reference_logits(
        self, selected: Tensor, batch_inputs: Tensor, batch_data_samples: list, *shared: Any
    ) -> Tensor | None:
        """The reference's logits (bs, Q) at the tokens (bs, Q) which the student selected; None without reference."""
        if self.reference is None:
            return None
        with torch.no_grad():
            return self.reference(batch_inputs, batch_data_samples, *shared).gather(1, selected)
