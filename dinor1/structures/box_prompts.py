"""Prompts that a detector accepts: encoded prompt sets, or boxes on the image that is searched."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .prompt_set import PromptSet


@dataclass(frozen=True)
class BoxPrompts:
    """Boxes on the target image itself, which are encoded from its features (interactive prompting).

    Attributes:
        boxes: (m, 4) pixel xyxy of the network input. With m = 0 the detector finds nothing.
        labels: (m,) indices into ``names``.
        names: Class names.
    """

    boxes: Tensor
    labels: Tensor
    names: tuple[str, ...]


# Prompts of a batch: one set for all images, or one entry per image.
Prompts = PromptSet | Sequence[PromptSet | BoxPrompts]
