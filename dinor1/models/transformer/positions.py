"""Sine position encoding of feature maps, cached by size for images without padding."""

from collections import OrderedDict

import torch
from mmdet.models.layers import SinePositionalEncoding
from torch import Tensor

# Enough for all levels of one image size.
_MAX_CACHED = 6


class CachedSinePositions(SinePositionalEncoding):
    """MMDetection's encoding (DETR, arXiv 2005.12872), with a cache: without padding it depends only on the size.

    The encodings of the last few sizes are cached; callers must not modify the returned tensor.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._cache: OrderedDict[tuple, Tensor] = OrderedDict()

    def forward(self, mask: Tensor | None, input: Tensor | None = None) -> Tensor:
        """Encode the positions of a feature map.

        Args:
            mask: (bs, H, W) non-zero = padding, or None.
            input: (bs, C, H, W), required without a mask.

        Returns:
            (bs, 2 * num_feats, H, W).

        Raises:
            ValueError: neither is given.
        """
        # Do not cache encodings of padded images, or while torch compiles.
        if mask is not None or torch.compiler.is_compiling():
            return super().forward(mask, input)
        if input is None:
            raise ValueError('a position encoding needs a mask or a feature map')
        # Look up the size, and encode it if it is new.
        key = (*input.shape[-2:], input.device)
        if key not in self._cache:
            # An inference tensor could not be used in a later training iteration.
            with torch.inference_mode(False), torch.no_grad():
                self._cache[key] = super().forward(None, input[:1])
            if len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return self._cache[key].expand(len(input), -1, -1, -1)
