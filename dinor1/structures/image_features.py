"""Multi-level features of a batch of images, flattened to one sequence of tokens per image."""

from typing import NamedTuple

from torch import Tensor


class ImageFeatures(NamedTuple):
    """What the transformer and the prompt encoder see of a batch.

    Tokens are ordered level after level, row after row; T is the number of pixels of all L levels together.

    Attributes:
        feat: (bs, T, C) features of the neck.
        pos: (bs, T, C) their position encoding, the level's embedding included.
        padding_mask: (bs, T) True = padding; None: no image of the batch is padded.
        spatial_shapes: (height, width) of each level. Numbers, not tensors: reading a tensor back would make the host
            wait for a GPU, and cannot be compiled.
        level_start_index: First token of each level.
        valid_ratios: (bs, L, 2) share of width and height that is not padding, in (0, 1].
    """

    feat: Tensor
    pos: Tensor
    padding_mask: Tensor | None
    spatial_shapes: tuple[tuple[int, int], ...]
    level_start_index: tuple[int, ...]
    valid_ratios: Tensor

    @property
    def batch_size(self) -> int:
        """Number of images."""
        return len(self.feat)

    def image(self, index: int) -> 'ImageFeatures':
        """The features of one image, as a batch of one."""
        one = slice(index, index + 1)
        return self._replace(
            feat=self.feat[one],
            pos=self.pos[one],
            padding_mask=None if self.padding_mask is None else self.padding_mask[one],
            valid_ratios=self.valid_ratios[one],
        )
