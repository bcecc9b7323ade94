"""A plain convolutional network whose norm and activation are set in the config."""

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from torch import Tensor, nn

from dinor1.registry import MODELS


@MODELS.register_module()
class ConvNet(nn.Sequential):
    """Stack of (convolution, norm, activation), one per entry of ``channels``.

    Args:
        norm_cfg: Config of a norm over (B, C, H, W); None: no norm.
        act_cfg: Config of the activation; None if the norm includes one, as EvoNorm does.
        in_channels: Channels of the images.
        channels: Width of each layer.
        strides: Stride of each layer.
        kernel_size: Kernel size of all layers, odd; padding keeps the size at stride 1.
    """

    def __init__(
        self,
        norm_cfg: dict | None,
        act_cfg: dict | None,
        in_channels: int = 1,
        channels: Sequence[int] = (16, 32, 64),
        strides: Sequence[int] = (1, 2, 2),
        kernel_size: int = 3,
    ) -> None:
        if len(channels) != len(strides):
            raise ValueError(f'channels and strides must have equal lengths, got {len(channels)} and {len(strides)}')
        widths = [in_channels, *channels]
        super().__init__(
            *(
                ConvModule(
                    widths[i],
                    widths[i + 1],
                    kernel_size,
                    stride=strides[i],
                    padding=kernel_size // 2,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                )
                for i in range(len(channels))
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels[-1], h, w)."""
        return super().forward(images)
