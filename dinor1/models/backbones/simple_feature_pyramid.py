"""The simple feature pyramid of ViTDet."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError

_SCALES = (4.0, 2.0, 1.0, 0.5)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Neck that makes several levels from the last feature map of a plain vision transformer.

    Y. Li, H. Mao, R. Girshick, K. He, *Exploring Plain Vision Transformer Backbones for Object Detection*,
    arXiv 2203.16527, section 3: for each level, the feature map is enlarged by transposed convolutions, kept, or
    reduced by max pooling. A 1 x 1 and a 3 x 3 convolution follow, each with layer normalisation over channels.

    Args:
        in_channels: Number of channels of the feature map.
        out_channels: Number of channels of every level.
        num_outs: Number of levels. Levels beyond those of ``scales`` take every second pixel of the level before.
        scales: Resolution of each level, relative to the feature map, in decreasing order, out of 4, 2, 1 and 0.5.
            With a stride of 16, the default gives strides of 8, 16 and 32.
        init_cfg: MMEngine's initialisation; None: torch's.

    Raises:
        InputError: ``scales`` or ``num_outs`` is not as described.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_outs: int = 3,
        scales: Sequence[float] = (2.0, 1.0, 0.5),
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        # Check the arguments.
        if not scales or list(scales) != [scale for scale in _SCALES if scale in scales]:
            raise InputError(
                f'SimpleFeaturePyramid: scales must be some of {_SCALES} in this order, got {tuple(scales)}'
            )
        if num_outs < len(scales):
            raise InputError(
                f'SimpleFeaturePyramid: num_outs={num_outs} is less than the {len(scales)} scales; give fewer scales'
            )
        # Build one branch per scale; further levels need no parameters.
        self.num_extra = num_outs - len(scales)
        self.levels = nn.ModuleList(
            nn.Sequential(
                *_resample(in_channels, scale),
                nn.Conv2d(in_channels // max(int(scale), 1), out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )
            for scale in scales
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Make the levels.

        Args:
            features: Levels of the backbone. Only the last one is used, (bs, ``in_channels``, h, w).

        Returns:
            ``num_outs`` levels (bs, ``out_channels``, h * scale, w * scale), rounded down.
        """
        outs = [level(features[-1]) for level in self.levels]
        for _ in range(self.num_extra):
            outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
        return tuple(outs)


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of a feature map (bs, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _resample(channels: int, scale: float) -> list[nn.Module]:
    """Layers that change the resolution; each doubling halves the number of channels."""
    if scale == 4:
        half = channels // 2
        between = [LayerNorm2d(half), nn.GELU()]
        return [nn.ConvTranspose2d(channels, half, 2, 2), *between, nn.ConvTranspose2d(half, half // 2, 2, 2)]
    if scale == 2:
        return [nn.ConvTranspose2d(channels, channels // 2, 2, 2)]
    return [] if scale == 1 else [nn.MaxPool2d(2, 2)]
