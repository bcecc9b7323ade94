"""A detector backbone of group convolutions, and the registration of the classifiers of ``dinor1.blocks.lie``."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.utils.dataclass_config import with_defaults

from .blocks import GroupResBlock
from .config import KernelConfig, LayerConfig, SamplingConfig
from .groups import plane_group
from .lifting import LiftingConv2d
from .matrix_group import MatrixGroup
from .network import AffineEquivariantNet
from .norm import make_norm
from .plain import PlainConvNet
from .pooling import GroupPool, SpatialMaxPool
from .sampler import GroupSampler, Resample
from .samples import GroupSamples

MODELS.register_module(module=AffineEquivariantNet)
MODELS.register_module(module=PlainConvNet)


@MODELS.register_module()
class AffineEquivariantBackbone(BaseModule):
    """Feature maps at strides 4, 8, 16, 32 that are equivariant under a group of affine maps.

    Lifting with stride 2, then per stage: pooling over space and a residual block of group convolutions; each output
    level adds pooling over the group and a 1 x 1 convolution. The maps are equivariant, not invariant, as boxes
    require: ``Phi(L_h f)(x) = Phi(f)(h^-1 x)``, except for the grid, the windows and the Monte Carlo noise of the
    samples (see :mod:`dinor1.blocks.lie.kernel_conv`). All stages of a forward pass share one set of samples.

    The architecture is not from a paper; the layers are those of Mironenco and Forre, arXiv 2310.11366.

    Args:
        group: ``sl2``, ``gl2`` or another of :data:`~dinor1.blocks.lie.GROUPS` for the plane; a dict of its ``name``
            and arguments, such as ``angle``, see :func:`~dinor1.blocks.lie.encode_angle`; or a group. Angles are
            encoded as ``cos_sin`` unless the dict says otherwise.
        widths: Channels of the stages, four or fewer.
        n_samples: Number N of samples; the cost is quadratic in N, and linear without mixing.
        out_indices: Indices of the stages to return, ascending.
        proj_channels: Channels of each returned map.
        pool: ``mean`` or ``max`` over the group.
        in_channels: Channels of the images.
        layers: The group convolutions and the norms, a :class:`~dinor1.blocks.lie.LayerConfig` or a dict of its
            fields. Default: windows of 3 and batch norm, which is exact under every group.
        kernel: The kernels, a :class:`~dinor1.blocks.lie.KernelConfig` or a dict. Default: as published, except for a
            ``bump`` mask of radius 1.2.
        sampling: The distribution of the samples, a :class:`~dinor1.blocks.lie.SamplingConfig` or a dict; ``mixing``
            is ``all`` or ``none``.
        resample: ``train``: new samples at every training step, fixed ones in tests. Also ``always``, ``never``.
        seed: Seed of the samples; replicas with the same seed draw the same samples.
        **kwargs: ``init_cfg`` of MMEngine's ``BaseModule``.

    Raises:
        InputError: a dict has an unknown key.
        ValueError: an argument is out of range, or two arguments contradict each other.
    """

    def __init__(
        self,
        group: str | Mapping[str, Any] | MatrixGroup = 'gl2',
        widths: Sequence[int] = (8, 16, 32, 64),
        n_samples: int = 4,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        proj_channels: Sequence[int] = (64, 128, 256, 512),
        pool: Literal['mean', 'max'] = 'mean',
        *,
        in_channels: int = 3,
        layers: LayerConfig | Mapping[str, Any] | None = None,
        kernel: KernelConfig | Mapping[str, Any] | None = None,
        sampling: SamplingConfig | Mapping[str, Any] | None = None,
        resample: Resample = 'train',
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Check the settings and fill in the defaults.
        if list(out_indices) != sorted(set(out_indices)) or not set(out_indices) <= set(range(len(widths))):
            raise ValueError(f'out_indices must ascend within 0 to {len(widths) - 1}, got {tuple(out_indices)}')
        if not out_indices or len(proj_channels) != len(out_indices):
            raise ValueError(f'proj_channels needs one number per out_indices, got {proj_channels} for {out_indices}')
        layers = with_defaults(layers, LayerConfig(k=3, norm='batch'), 'layers')
        kernel = with_defaults(kernel, KernelConfig(mask='bump', support_radius=1.2), 'kernel')
        sampling = with_defaults(sampling, SamplingConfig(), 'sampling')
        sampling.check_kernel(kernel)
        if sampling.mixing == 'last':
            raise ValueError("mixing must be 'all' or 'none' in a backbone, which has no last convolution; got 'last'")
        self.group = plane_group(group, 'cos_sin')
        self.out_indices = tuple(out_indices)

        # One set of samples for all stages.
        self.sampler = GroupSampler(
            self.group, n_samples, resample, seed, n_test=sampling.n_test, **sampling.distribution
        )

        # Stem, stages, and a projection for each returned level.
        self.stem = LiftingConv2d(
            self.group, in_channels, widths[0], 5, padding=2, stride=2, padding_mode=layers.padding_mode, kernel=kernel
        )
        self.stem_norm = make_norm(layers.norm, widths[0])
        self.down = SpatialMaxPool(2)
        # Leave out stages after the last returned level.
        widths = list(widths)[: self.out_indices[-1] + 1]
        self.stages = nn.ModuleList(
            GroupResBlock(
                self.group,
                c_in,
                c_out,
                layers,
                kernel,
                importance=sampling.importance,
                mix=sampling.mixing == 'all',
            )
            for c_in, c_out in zip([widths[0], *widths[:-1]], widths, strict=True)
        )
        self.group_pool = GroupPool(pool, 'group')
        self.projections = nn.ModuleList(
            nn.Conv2d(widths[i], channels, 1) for i, channels in zip(self.out_indices, proj_channels, strict=True)
        )

    def forward(self, x: Tensor, samples: GroupSamples | None = None) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x: ``(B, in_channels, H, W)``, sides at least 4 times 2 to the power of the last stage.
            samples: Group elements to sample on; default: drawn according to ``resample``.

        Returns:
            One map per level of ``out_indices``, ``(B, proj_channels, H / s, W / s)``, s = 4, 8, 16, 32.

        Raises:
            ValueError: an image has a wrong shape or is too small.
        """
        stride = 4 << self.out_indices[-1]
        if x.dim() == 4 and min(x.shape[-2:]) < stride:
            raise ValueError(f'images must be at least {stride} pixels on either side, got {tuple(x.shape[-2:])}')
        samples = self.sampler() if samples is None else samples
        # Lift the images to the group.
        y = F.gelu(self.stem_norm(self.stem(x, samples.g_inv)))
        # Run the stages; pool and project the returned levels.
        maps = []
        for index, stage in enumerate(self.stages):
            y = stage(self.down(y), samples)
            if index in self.out_indices:
                projection = self.projections[self.out_indices.index(index)]
                maps.append(projection(self.group_pool(y)))
        return tuple(maps)
