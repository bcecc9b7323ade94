"""A detector backbone of group convolutions, and the registered names of the classifiers of ``dinor1.blocks.lie``."""

from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from dinor1.blocks.lie import (
    AffineEquivariantNet,
    GroupPool,
    GroupResBlock,
    GroupSampler,
    GroupSamples,
    LiftingConv2d,
    PlainConvNet,
    SpatialMaxPool,
)
from dinor1.registry import MODELS

from .blocks import Norm, make_norm
from .groups import plane_group
from .kernels import Kernel
from .masks import Mask
from .rotations import Angle, Spread
from .sampler import Resample

MODELS.register_module(module=AffineEquivariantNet)
MODELS.register_module(module=PlainConvNet)


@MODELS.register_module()
class AffineEquivariantBackbone(BaseModule):
    """Feature maps at strides 4, 8, 16, 32 that move with the image under a group of affine maps.

    Lifting with stride 2, then per stage: pooling over space, a residual block of group convolutions; for each level
    that is given out, pooling over the group and a 1 x 1 convolution. The maps are equivariant, not invariant, which
    is what boxes need: ``Phi(L_h f)(x) = Phi(f)(h^-1 x)``, up to the grid, the windows and Monte Carlo noise of the
    samples (see :mod:`dinor1.blocks.lie.kernel_conv`). All stages of a forward pass share one set of samples.

    The layout is ours; the layers are those of Mironenco and Forre, arXiv 2310.11366.

    Args:
        group: One of :data:`dinor1.blocks.lie.GROUPS` for the plane.
        widths: Channels of the four stages; fewer numbers, fewer stages.
        n_samples: N; the cost grows with its square, without ``mix`` in proportion.
        out_indices: Stages to give out, ascending.
        proj_channels: Channels of each map that is given out.
        pool: ``mean`` or ``max`` over the group.
        in_channels: Channels of the images.
        k: Window size of the group convolutions, odd.
        hidden: Width of the kernel networks.
        w0: Their frequency.
        mask: See :func:`dinor1.blocks.lie.window_mask`.
        support_radius: Of the mask.
        norm: ``batch``, exact under every group, or ``layer``.
        angle: See :func:`dinor1.blocks.lie.encode_angle`.
        rot: Spread of the samples' rotations.
        rot_bound: Share of the full turn that they cover.
        spd_var: Variance of the samples' stretch.
        resample: ``train``: fresh samples at every training step, fixed ones in tests. Also ``always``, ``never``.
        seed: Of the samples; replicas with one seed draw the same.
        kernel: ``siren`` or ``spline``, see :mod:`dinor1.blocks.lie.kernels`.
        knots: Of the splines.
        mix: Whether samples mix in every block, as in the published network, or meet in the pooling alone, see
            :class:`dinor1.blocks.lie.PlanarConv2d`.
        init_cfg: As in MMEngine.

    Raises:
        ValueError: an argument is out of range, or they do not fit together.
    """

    def __init__(
        self,
        group: str = 'gl2',
        widths: Sequence[int] = (8, 16, 32, 64),
        n_samples: int = 4,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        proj_channels: Sequence[int] = (64, 128, 256, 512),
        pool: Literal['mean', 'max'] = 'mean',
        *,
        in_channels: int = 3,
        k: int = 3,
        hidden: int = 60,
        w0: float = 10.0,
        mask: Mask | None = 'bump',
        support_radius: float = 1.2,
        norm: Norm = 'batch',
        angle: Angle = 'cos_sin',
        rot: Spread | None = None,
        rot_bound: float = 1.0,
        spd_var: float = 0.1,
        resample: Resample = 'train',
        seed: int = 0,
        kernel: Kernel = 'siren',
        knots: int = 3,
        mix: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if list(out_indices) != sorted(set(out_indices)) or not set(out_indices) <= set(range(len(widths))):
            raise ValueError(f'out_indices must ascend within 0 to {len(widths) - 1}, got {tuple(out_indices)}')
        if not out_indices or len(proj_channels) != len(out_indices):
            raise ValueError(f'proj_channels needs one number per out_indices, got {proj_channels} for {out_indices}')
        self.group = plane_group(group, angle)
        self.out_indices = tuple(out_indices)
        options: dict[str, Any] = dict(
            hidden=hidden, w0=w0, mask=mask, support_radius=support_radius, kernel=kernel, knots=knots
        )
        self.sampler = GroupSampler(
            self.group, n_samples, resample, seed, rot=rot, rot_bound=rot_bound, spd_var=spd_var
        )
        self.stem = LiftingConv2d(self.group, in_channels, widths[0], 5, padding=2, stride=2, **options)
        self.stem_norm = make_norm(norm, widths[0])
        self.down = SpatialMaxPool(2)
        # Stages after the last level that is given out would only cost time.
        widths = list(widths)[: self.out_indices[-1] + 1]
        self.stages = nn.ModuleList(
            GroupResBlock(self.group, c_in, c_out, k, norm, mix=mix, **options)
            for c_in, c_out in zip([widths[0], *widths[:-1]], widths, strict=True)
        )
        self.group_pool = GroupPool(pool, 'group')
        self.projections = nn.ModuleList(
            nn.Conv2d(widths[i], channels, 1) for i, channels in zip(self.out_indices, proj_channels, strict=True)
        )

    def forward(self, x: Tensor, samples: GroupSamples | None = None) -> tuple[Tensor, ...]:
        """Compute the maps.

        Args:
            x: ``(B, in_channels, H, W)``, sides at least 4 times 2 to the power of the last stage.
            samples: Elements to compute on; default: drawn as ``resample`` says.

        Returns:
            Per level of ``out_indices`` a map ``(B, proj_channels, H / s, W / s)``, s = 4, 8, 16, 32.

        Raises:
            ValueError: wrong shape, or an image too small.
        """
        stride = 4 << self.out_indices[-1]
        if x.dim() == 4 and min(x.shape[-2:]) < stride:
            raise ValueError(f'images must be at least {stride} pixels on either side, got {tuple(x.shape[-2:])}')
        samples = self.sampler() if samples is None else samples
        y = F.gelu(self.stem_norm(self.stem(x, samples.g_inv)))
        maps = []
        for index, stage in enumerate(self.stages):
            y = stage(self.down(y), samples)
            if index in self.out_indices:
                projection = self.projections[self.out_indices.index(index)]
                maps.append(projection(self.group_pool(y)))
        return tuple(maps)
