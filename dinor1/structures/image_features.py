"""Multi-level features of a batch of images, flattened to one sequence of tokens per image."""

from typing import NamedTuple

from torch import Tensor


class ImageFeatures(NamedTuple):
    """Features of a batch, the input of the transformer and of the prompt encoder.

    Tokens are ordered by level, and within a level row by row; T is the total number of pixels of all L levels.

    Attributes:
        feat: (bs, T, C) features of the neck.
        pos: (bs, T, C) position encoding of the tokens, including the level embedding.
        padding_mask: (bs, T) True = padding; None if no image of the batch is padded.
        spatial_shapes: L pairs (height, width) of Python integers; reading them from a tensor would synchronise with
            the GPU and could not be compiled.
        level_start_index: Index of the first token of each of the L levels.
        valid_ratios: (bs, L, 2) fractions of width and height that are not padding, in (0, 1].
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
