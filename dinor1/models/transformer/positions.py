"""Sine position encoding of feature maps, computed once per size where nothing is padded."""

from collections import OrderedDict

import torch
from mmdet.models.layers import SinePositionalEncoding
from torch import Tensor

# One image size has at most this many levels; a second size would only be kept by chance.
_MAX_CACHED = 6


class CachedSinePositions(SinePositionalEncoding):
    """MMDetection's encoding (DETR, arXiv 2005.12872), which without padding depends on the size alone.

    The latest few sizes are cached; what is returned for them must not be written to.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._cache: OrderedDict[tuple, Tensor] = OrderedDict()

    def forward(self, mask: Tensor | None, input: Tensor | None = None) -> Tensor:
        """Encode the positions of a feature map.

        Args:
            mask: (bs, H, W) non-zero = padding, or None.
            input: (bs, C, H, W), where there is no mask.

        Returns:
            (bs, 2 * num_feats, H, W).
        """
        if mask is not None or torch.compiler.is_compiling():
            return super().forward(mask, input)
        if input is None:
            raise ValueError('a position encoding needs a mask or a feature map')
        key = (*input.shape[-2:], input.device)
        if key not in self._cache:
            # An inference tensor could not serve a training step later.
            with torch.inference_mode(False), torch.no_grad():
                self._cache[key] = super().forward(None, input[:1])
            if len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return self._cache[key].expand(len(input), -1, -1, -1)
