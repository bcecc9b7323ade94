"""An image classifier that is invariant under a group of affine maps, except for errors of its samples.

The network of Mironenco and Forre, arXiv 2310.11366, after their public code: lifting, residual blocks, a last group
convolution, and a maximum over the group and space. Two differences are needed for equivariance: the last convolution
gets the samples of its input, and the determinant is that of the input's samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinor1.utils.dataclass_config import with_defaults

from .blocks import GroupResBlock, convolve
from .config import KernelConfig, LayerConfig, SamplingConfig, StemConfig
from .equivariance import invariance_error, smooth_images, standard_elements
from .group_conv import GroupConv2d
from .groups import plane_group
from .lifting import LiftingConv2d
from .matrix_group import MatrixGroup
from .norm import make_norm
from .planar_conv import PlanarConv2d
from .pooling import GroupPool, SpatialMaxPool
from .sampler import GroupSampler, Resample
from .samples import GroupSamples


class NetworkSamples(NamedTuple):
    """Samples for one forward pass.

    Attributes:
        first: Samples of the lifting and the residual blocks, which must be the same.
        last: Samples of the last convolution's output.
    """

    first: GroupSamples
    last: GroupSamples

    def transport(self, h: Tensor) -> 'NetworkSamples':
        """Move both sets with the image, see :meth:`~dinor1.blocks.lie.GroupSamples.transport`."""
        return NetworkSamples(self.first.transport(h), self.last.transport(h))


class AffineEquivariantNet(nn.Module):
    """Classifier on ``R^2 x| H``: the features before the head are invariant under the group.

    Law: ``pooled(L_h f) = pooled(f)``. With transported samples the errors are those of interpolation, window and
    border; with new samples there is also Monte Carlo noise, which falls with ``n_samples``.
    :meth:`check_equivariance` measures both.

    With the defaults this is the published network: 339,102 parameters (sl2) or 339,282 (gl2).

    Args:
        group: ``sl2``, ``gl2`` or another of :data:`~dinor1.blocks.lie.GROUPS` for the plane; a dict of its ``name``
            and arguments, such as ``angle``, see :func:`~dinor1.blocks.lie.encode_angle`; or a group.
        in_channels: Channels of the images.
        width: Channels of the maps, or one number per depth.
        depth: Number of widths; there are ``depth - 1`` residual blocks.
        n_samples: Samples per layer; the cost is quadratic.
        num_classes: Length of the logits; None: no head, and :meth:`forward` returns the pooled features.
        head: Hidden width of the head.
        dropout: Dropout rate in the head.
        resample: When samples are drawn: ``always``, ``train`` or ``never``, see
            :class:`~dinor1.blocks.lie.GroupSampler`.
        seed: Seed of the samples; None: a random one.
        stem: The lifting, a :class:`~dinor1.blocks.lie.StemConfig` or a dict of its fields.
        layers: The group convolutions and the norms, a :class:`~dinor1.blocks.lie.LayerConfig` or a dict.
        kernel: The kernels of all convolutions, a :class:`~dinor1.blocks.lie.KernelConfig` or a dict.
        sampling: The distribution of the samples, a :class:`~dinor1.blocks.lie.SamplingConfig` or a dict.
        pool: Reduction over samples of each channel's maximum over space: ``max``, as published, or ``mean``.

    Raises:
        InputError: a dict has an unknown key.
        ValueError: an argument is out of range, or two arguments contradict each other.
    """

    def __init__(
        self,
        group: str | Mapping[str, Any] | MatrixGroup = 'sl2',
        in_channels: int = 1,
        width: int | Sequence[int] = 40,
        depth: int = 2,
        n_samples: int = 10,
        num_classes: int | None = 10,
        head: int = 256,
        dropout: float = 0.3,
        resample: Resample = 'always',
        seed: int | None = None,
        *,
        stem: StemConfig | Mapping[str, Any] | None = None,
        layers: LayerConfig | Mapping[str, Any] | None = None,
        kernel: KernelConfig | Mapping[str, Any] | None = None,
        sampling: SamplingConfig | Mapping[str, Any] | None = None,
        pool: Literal['max', 'mean'] = 'max',
    ) -> None:
        super().__init__()
        # Check the settings and fill in the defaults.
        group = plane_group(group, 'zero_two_pi')
        stem = with_defaults(stem, StemConfig(), 'stem')
        layers = with_defaults(layers, LayerConfig(), 'layers')
        kernel = with_defaults(kernel, KernelConfig(), 'kernel')
        sampling = with_defaults(sampling, SamplingConfig(), 'sampling')
        sampling.check_kernel(kernel)
        widths = [width] * depth if isinstance(width, int) else list(width)
        if not widths or len(widths) != depth:
            raise ValueError(f'width must be one number or {depth}, one per depth; got {width}')
        if pool not in ('max', 'mean'):
            raise ValueError(f"pool must be 'max' or 'mean', got {pool!r}")

        # Samplers: one for the residual blocks, and unless samples are shared, one for the last convolution.
        self.group, self.importance = group, sampling.importance
        self.share_samples = sampling.shared or sampling.mixing == 'none'
        distribution = sampling.distribution
        self.first_sampler = GroupSampler(group, n_samples, resample, seed, 0, sampling.n_test, **distribution)
        if not self.share_samples:
            seed = int(self.first_sampler.state[0])
            self.last_sampler = GroupSampler(group, n_samples, resample, seed, layer=1, **distribution)

        # Layers.
        options: dict[str, Any] = dict(padding_mode=layers.padding_mode, kernel=kernel)
        self.stem = LiftingConv2d(
            group, in_channels, widths[0], stem.k or layers.k, stem.padding, stride=stem.stride, **options
        )
        self.stem_norm = make_norm(layers.norm, widths[0])
        self.blocks = nn.ModuleList(
            GroupResBlock(group, a, b, layers, kernel, importance=sampling.importance, mix=sampling.mixing == 'all')
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.pool_norm = make_norm(layers.norm, widths[-1])
        self.pool = SpatialMaxPool(2)
        last = PlanarConv2d if sampling.mixing == 'none' else GroupConv2d
        self.last = last(group, widths[-1], widths[-1], layers.k, padding=0, **options)
        self.last_norm = make_norm(layers.norm, widths[-1])
        self.group_pool = GroupPool('max' if pool == 'max' else 'max_mean', 'all')
        self.head = make_head(widths[-1], head, dropout, num_classes)

    def draw(self) -> NetworkSamples:
        """Draw samples for one forward pass, according to ``resample``."""
        first = self.first_sampler()
        return NetworkSamples(first, first if self.share_samples else self.last_sampler())

    def features(self, x: Tensor, samples: NetworkSamples | None = None) -> Tensor:
        """Compute the map on the group before the final pooling.

        Args:
            x: ``(B, in_channels, H, W)``.
            samples: Default: :meth:`draw`.

        Returns:
            ``(B, C, N, H', W')`` on ``samples.last``.

        Raises:
            ValueError: an image has a wrong shape or is too small for the windows.
        """
        # Check the images.
        first, last = self.draw() if samples is None else samples
        if x.dim() == 4:
            self._check_size(*x.shape[-2:])
        # Lift, apply the residual blocks, pool over space, and convolve once more.
        y = F.gelu(self.stem_norm(self.stem(x, first.g_inv)))
        for block in self.blocks:
            y = block(y, first)
        y = F.gelu(self.pool(self.pool_norm(y)))
        return F.gelu(self.last_norm(convolve(self.last, y, first, last, self.importance)))

    def pooled(self, x: Tensor, samples: NetworkSamples | None = None) -> Tensor:
        """Invariant features, ``(B, C, H, W)`` images -> ``(B, C')``."""
        return self.group_pool(self.features(x, samples))

    def forward(self, x: Tensor, samples: NetworkSamples | None = None) -> Tensor:
        """Logits ``(B, num_classes)``, or without a head the pooled features."""
        return self.head(self.pooled(x, samples))

    def _check_size(self, height: int, width: int) -> None:
        stem = self.stem
        needed = 2 * self.last.k
        for side in (height, width):
            if (side + 2 * stem.padding - stem.k) // stem.stride + 1 < needed:
                least = (needed - 1) * stem.stride + stem.k - 2 * stem.padding
                raise ValueError(f'images must be at least {least} pixels on either side, got {height} x {width}')

    def check_equivariance(
        self,
        elements: Mapping[str, Tensor] | None = None,
        *,
        transport: bool = True,
        size: int = 40,
        num_images: int = 4,
        repeats: int = 5,
        seed: int = 0,
    ) -> dict[str, float]:
        """Relative change of :meth:`pooled` under the group, see :func:`~dinor1.blocks.lie.invariance_error`.

        Args:
            elements: Group elements by name, ``(2, 2)`` each. Default: :func:`~dinor1.blocks.lie.standard_elements`.
            transport: Move the samples with the image; otherwise both sides draw their own, as in practice.
            size: Side of the smooth random images.
            num_images: Number of images.
            repeats: Draws to average over.
            seed: Seed of images and samples.

        Returns:
            Relative error per name.
        """
        # Make the images.
        generator = torch.Generator().manual_seed(seed)
        parameter = next(self.parameters())
        x = smooth_images(num_images, self.stem.in_channels, size, size, generator=generator).to(parameter)
        sampler = self.first_sampler
        steps = iter(range(1 << 62))

        def draw() -> NetworkSamples:
            def one() -> GroupSamples:
                step = torch.Generator().manual_seed(seed * 1_000_003 + next(steps))
                return self.group.sample(sampler.n, step, dtype=parameter.dtype, **sampler.options).to(x.device)

            first = one()
            return NetworkSamples(first, first if self.share_samples else one())

        # Measure in evaluation mode, and restore the mode.
        elements = standard_elements(self.group) if elements is None else elements
        was_training = self.training
        self.eval()
        try:
            return {
                name: invariance_error(self.pooled, self.group, h, x, draw, repeats, transport)
                for name, h in elements.items()
            }
        finally:
            self.train(was_training)


def make_head(width: int, hidden: int, dropout: float, num_classes: int | None) -> nn.Module:
    """``linear, layer norm, GELU, dropout, linear``, or the identity if ``num_classes`` is None."""
    if num_classes is None:
        return nn.Identity()
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.LayerNorm(hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, num_classes),
    )
