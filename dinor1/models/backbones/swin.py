"""MMDetection's Swin without denormal numbers in its shifted windows."""

from typing import Any

from mmdet.models.backbones import SwinTransformer as _MMDetSwin
from torch import Tensor, nn

from dinor1.registry import MODELS


@MODELS.register_module()
class DenormalFreeSwin(_MMDetSwin):
    """Swin Transformer (Liu et al., arXiv 2103.14030) whose masked attention weights are exactly zero.

    MMDetection adds -100 to the logits of token pairs that a shifted window must not mix. In float32, ``exp(-100)`` is
    4e-44, a denormal number, and CPUs are many times slower with denormal numbers. This class adds -1000, and
    ``exp(-1000)`` is 0. Outputs, parameters and parameter names are the same.

    Args:
        **kwargs: Arguments of MMDetection's ``SwinTransformer``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for stage in self.stages:
            for block in stage.blocks:
                block.attn.w_msa.register_forward_pre_hook(_mask_to_zero, with_kwargs=True)


def _mask_to_zero(_module: nn.Module, args: tuple, kwargs: dict[str, Tensor | None]) -> tuple[tuple, dict]:
    """Forward pre-hook that turns a mask of 0 and -100 into one of 0 and -1000."""
    mask = kwargs.get('mask')
    return args, kwargs if mask is None else kwargs | dict(mask=10 * mask)
