"""Prompts that are still boxes on the image they are looked for in."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BoxPrompts:
    """Boxes on the target image itself, to be encoded from its features (interactive prompting).

    Attributes:
        boxes: (m, 4) pixel xyxy of the network input. m = 0: nothing is looked for, and nothing found.
        labels: (m,) indices into ``names``.
        names: Class names.
    """

    boxes: Tensor
    labels: Tensor
    names: tuple[str, ...]
