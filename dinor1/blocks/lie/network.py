"""An image classifier that no affine map of the group confuses, as far as its samples go.

The network of Mironenco and Forre, arXiv 2310.11366, read from their public code: lifting, residual blocks, a last
group convolution, and a maximum over the group and space. Two differences, both in favour of the law: the last
convolution is told the samples that its input really lives on, and the determinant stands at the input's samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import GroupResBlock, Norm, convolve, make_norm
from .equivariance import invariance_error, smooth_images, standard_elements
from .group_conv import GroupConv2d
from .groups import plane_group
from .kernels import Kernel
from .lifting import LiftingConv2d
from .masks import Mask
from .matrix_group import MatrixGroup
from .planar_conv import PlanarConv2d
from .pooling import GroupPool, SpatialMaxPool
from .rotations import Angle, Spread
from .sampler import GroupSampler, Resample
from .samples import GroupSamples

Mixing = Literal['all', 'last', 'none']


class NetworkSamples(NamedTuple):
    """Samples of one forward pass.

    Attributes:
        first: Of the lifting and the residual blocks, which must agree.
        last: Of the last convolution's output.
    """

    first: GroupSamples
    last: GroupSamples

    def transport(self, h: Tensor) -> 'NetworkSamples':
        """Both moved along with the image, see :meth:`~dinor1.blocks.lie.GroupSamples.transport`."""
        return NetworkSamples(self.first.transport(h), self.last.transport(h))


class AffineEquivariantNet(nn.Module):
    """Classifier on ``R^2 x| H``: its features before the head are invariant under the group.

    Law: ``pooled(L_h f) = pooled(f)``, with transported samples up to interpolation, window and border; with fresh
    samples up to Monte Carlo noise besides, which falls with ``n_samples``. :meth:`check_equivariance` measures both.

    With the defaults and 1 input channel it is the published network: 339,102 parameters (sl2) or 339,282 (gl2).

    Args:
        group: ``sl2``, ``gl2`` or another of :data:`~dinor1.blocks.lie.GROUPS` for the plane, or a group.
        in_channels: Channels of the images.
        width: Channels of the maps, or one number per depth.
        depth: Number of widths; there are ``depth - 1`` residual blocks.
        n_samples: Samples per layer; the cost grows with the square.
        num_classes: Length of the logits; None: no head, :meth:`forward` gives the pooled features.
        head: Hidden width of the head.
        dropout: In the head.
        resample: When samples are drawn: ``always``, ``train`` or ``never``, see :class:`~dinor1.blocks.lie.GroupSampler`.
        seed: Of the samples; None draws one.
        k: Window size of the group convolutions.
        stem_k: Window size of the lifting; None: k.
        stem_stride: Stride of the lifting.
        stem_padding: Padding of the lifting. Where the background is not 0, padding shows the network a frame.
        kernel: ``siren``, as published, or ``spline``, see :mod:`dinor1.blocks.lie.kernels`.
        hidden: Width of the kernel networks.
        w0: Their frequency.
        knots: Of the splines.
        mask: See :func:`~dinor1.blocks.lie.window_mask`.
        support_radius: Of the mask.
        padding_mode: ``zeros`` or ``replicate``.
        norm: ``layer`` or ``batch``.
        angle: See :func:`~dinor1.blocks.lie.encode_angle`.
        rot: Spread of the samples' rotations.
        rot_bound: Share of the full turn that they cover.
        spd_var: Variance of the samples' stretch.
        importance: Weights for an unbiased Haar integral; needs ``group_width``.
        group_width: Localisation of the kernels on H.
        share_samples: Use one set of samples in all layers.
        pool: How the maxima over space of the samples become one number per channel: their ``max``, as published, or
            their ``mean``.
        n_test_samples: Samples in evaluation, None: ``n_samples``. Only without mixing, where no sum changes with it.
        mixing: Where samples mix: in ``all`` group convolutions, as published; in the ``last`` one; in ``none``, where
            they meet in the pooling alone and share one set, see :class:`~dinor1.blocks.lie.PlanarConv2d`.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        group: str | MatrixGroup = 'sl2',
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
        k: int = 5,
        stem_k: int | None = None,
        stem_stride: int = 1,
        stem_padding: int = 0,
        kernel: Kernel = 'siren',
        hidden: int = 60,
        w0: float = 10.0,
        knots: int = 3,
        mask: Mask | None = 'auto',
        support_radius: float = 1.0,
        padding_mode: str = 'zeros',
        norm: Norm = 'layer',
        angle: Angle = 'zero_two_pi',
        rot: Spread | None = None,
        rot_bound: float = 1.0,
        spd_var: float = 0.1,
        importance: bool = False,
        group_width: float | None = None,
        share_samples: bool = False,
        pool: Literal['max', 'mean'] = 'max',
        n_test_samples: int | None = None,
        mixing: Mixing = 'all',
    ) -> None:
        super().__init__()
        group = plane_group(group, angle)
        widths = [width] * depth if isinstance(width, int) else list(width)
        if not widths or len(widths) != depth:
            raise ValueError(f'width must be one number or {depth}, one per depth; got {width}')
        if importance and group_width is None:
            raise ValueError('importance weights have a finite variance only with group_width below sqrt(2 spd_var)')
        if mixing not in ('all', 'last', 'none'):
            raise ValueError(f"mixing must be 'all', 'last' or 'none', got {mixing!r}")
        if mixing == 'none' and (importance or group_width is not None):
            raise ValueError("mixing='none' sums over no samples: leave out importance and group_width")
        if pool not in ('max', 'mean'):
            raise ValueError(f"pool must be 'max' or 'mean', got {pool!r}")
        if n_test_samples is not None and mixing != 'none':
            raise ValueError("n_test_samples needs mixing='none': sums over samples grow with their number")
        share_samples = share_samples or mixing == 'none'
        self.group, self.importance, self.share_samples = group, importance, share_samples
        options: dict[str, Any] = dict(
            kernel=kernel,
            hidden=hidden,
            w0=w0,
            knots=knots,
            mask=mask,
            support_radius=support_radius,
            padding_mode=padding_mode,
        )
        # Only layers that see two elements at once have a width on the group.
        mixed = options | dict(group_width=group_width)
        sampling: dict[str, Any] = dict(rot=rot, rot_bound=rot_bound, spd_var=spd_var, importance=importance)
        self.first_sampler = GroupSampler(group, n_samples, resample, seed, 0, n_test_samples, **sampling)
        if not share_samples:
            seed = int(self.first_sampler.state[0])
            self.last_sampler = GroupSampler(group, n_samples, resample, seed, layer=1, **sampling)

        self.stem = LiftingConv2d(
            group, in_channels, widths[0], stem_k or k, stem_padding, stride=stem_stride, **options
        )
        self.stem_norm = make_norm(norm, widths[0])
        self.blocks = nn.ModuleList(
            GroupResBlock(group, a, b, k, norm, importance=importance, **mixed)
            if mixing == 'all'
            else GroupResBlock(group, a, b, k, norm, mix=False, **options)
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.pool_norm = make_norm(norm, widths[-1])
        self.pool = SpatialMaxPool(2)
        self.last = (
            PlanarConv2d(group, widths[-1], widths[-1], k, padding=0, **options)
            if mixing == 'none'
            else GroupConv2d(group, widths[-1], widths[-1], k, padding=0, **mixed)
        )
        self.last_norm = make_norm(norm, widths[-1])
        self.group_pool = GroupPool('max' if pool == 'max' else 'max_mean', 'all')
        self.head = make_head(widths[-1], head, dropout, num_classes)

    def draw(self) -> NetworkSamples:
        """Samples for one forward pass, as ``resample`` says."""
        first = self.first_sampler()
        return NetworkSamples(first, first if self.share_samples else self.last_sampler())

    def features(self, x: Tensor, samples: NetworkSamples | None = None) -> Tensor:
        """Map on the group before the final pooling.

        Args:
            x: ``(B, in_channels, H, W)``.
            samples: Default: :meth:`draw`.

        Returns:
            ``(B, C, N, H', W')`` on ``samples.last``.

        Raises:
            ValueError: wrong shape, or an image too small for the windows.
        """
        first, last = self.draw() if samples is None else samples
        if x.dim() == 4:
            self._check_size(*x.shape[-2:])
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
            transport: Move the samples with the image; else both sides draw their own, as at work.
            size: Side of the smooth random images.
            num_images: How many.
            repeats: Draws to average over.
            seed: Of images and samples.

        Returns:
            The relative error per name.
        """
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
    """``linear, layer norm, GELU, dropout, linear``, or nothing where there are no classes."""
    if num_classes is None:
        return nn.Identity()
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.LayerNorm(hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, num_classes),
    )
