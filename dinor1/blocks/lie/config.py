"""Settings that several layers of a network share: dataclasses, written as nested dicts in configs.

A constructor takes the dataclass, a dict that overrides fields of its default, or None for the default::

    AffineEquivariantNet(kernel=KernelConfig(kind='spline', mask='bump'))
    backbone = dict(type='AffineEquivariantNet', kernel=dict(kind='spline', mask='bump'))
"""

from dataclasses import dataclass
from typing import Any, Literal

from .kernels import KERNELS, Kernel
from .masks import MASKS, Mask
from .norm import NORMS, Norm
from .rotations import Spread

Mixing = Literal['all', 'last', 'none']
MIXINGS: tuple[Mixing, ...] = ('all', 'last', 'none')
PaddingMode = Literal['zeros', 'replicate']
PADDING_MODES: tuple[PaddingMode, ...] = ('zeros', 'replicate')


@dataclass(frozen=True)
class KernelConfig:
    """Kernels of group convolutions, and their masks.

    Attributes:
        kind: ``siren``, as published, or ``spline``, see :mod:`dinor1.blocks.lie.kernels`.
        hidden: Width of the kernel networks; not used by splines.
        w0: Frequency of the kernel networks; not used by splines.
        knots: Knots of the splines per axis; not used by kernel networks.
        mask: See :func:`~dinor1.blocks.lie.window_mask`; ``auto``, the published choice, is ``hard`` for groups of
            determinant 1 and ``smooth`` (which also depends on the coordinates on H) for all others. ``bump`` has the
            smallest equivariance error.
        support_radius: Radius of the mask, in units of half the window.
        group_width: Localise kernels on H by ``exp(-|log S|^2 / (2 group_width^2))``, S of ``g^-1 g'``. Only
            :class:`~dinor1.blocks.lie.GroupConv2d` uses it.

    Raises:
        ValueError: a value is out of range.
    """

    kind: Kernel = 'siren'
    hidden: int = 60
    w0: float = 10.0
    knots: int = 3
    mask: Mask | None = 'auto'
    support_radius: float = 1.0
    group_width: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KERNELS:
            raise ValueError(f"kind of kernel must be 'siren' or 'spline', got {self.kind!r}")
        if self.mask is not None and self.mask not in MASKS:
            raise ValueError(f'mask must be None or one of {", ".join(MASKS)}; got {self.mask!r}')
        if not self.support_radius > 0:
            raise ValueError(f'support_radius must be positive, got {self.support_radius}')
        if self.group_width is not None and not self.group_width > 0:
            raise ValueError(f'group_width must be positive, got {self.group_width}')


@dataclass(frozen=True)
class StemConfig:
    """The first convolution of a classifier.

    Attributes:
        k: Window size; None: as in the other layers.
        stride: Stride.
        padding: Pixels added on each side. If the background is not 0, padding adds a visible frame.
    """

    k: int | None = None
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class LayerConfig:
    """Convolutions after the stem, and the norm after every convolution.

    Attributes:
        k: Window size, odd.
        norm: ``layer``, as published, or ``batch``, which is equivariant under every group.
        padding_mode: ``zeros``, or ``replicate``, which extends a constant background.

    Raises:
        ValueError: a value is out of range.
    """

    k: int = 5
    norm: Norm = 'layer'
    padding_mode: PaddingMode = 'zeros'

    def __post_init__(self) -> None:
        if self.k % 2 == 0:
            raise ValueError(f'a residual block needs an odd window, got k={self.k}')
        if self.norm not in NORMS:
            raise ValueError(f"norm must be 'layer' or 'batch', got {self.norm!r}")
        if self.padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be 'zeros' or 'replicate', got {self.padding_mode!r}")


@dataclass(frozen=True)
class SamplingConfig:
    """Distribution of the samples of a network over its group, and the layers that sum over them.

    Attributes:
        rot: Spread of the rotations, see :meth:`~dinor1.blocks.lie.MatrixGroup.sample`.
        rot_bound: Share of the full turn that the rotations cover.
        spd_var: Variance of the stretches.
        importance: Weight the sums, so that they are unbiased estimates of Haar integrals; needs
            ``group_width`` of the kernels.
        mixing: Which layers mix samples: ``all`` group convolutions, as published; the ``last`` one of a classifier; or
            ``none``, where only the pooling combines samples, see :class:`~dinor1.blocks.lie.PlanarConv2d`.
        shared: Use one set of samples in all layers; always the case without mixing and in the backbone.
        n_test: Number of samples in evaluation; None: as many as in training. Only without mixing, where no layer sums
            over the samples.

    Raises:
        ValueError: a value is unknown, or two values contradict each other.
    """

    rot: Spread | None = None
    rot_bound: float = 1.0
    spd_var: float = 0.1
    importance: bool = False
    mixing: Mixing = 'all'
    shared: bool = False
    n_test: int | None = None

    def __post_init__(self) -> None:
        if self.mixing not in MIXINGS:
            raise ValueError(f"mixing must be 'all', 'last' or 'none', got {self.mixing!r}")
        if self.n_test is not None and self.mixing != 'none':
            raise ValueError("n_test needs mixing='none': with mixing, sums over samples grow with their number")

    def check_kernel(self, kernel: KernelConfig) -> None:
        """Raise ``ValueError`` unless these settings fit ``kernel``."""
        if self.importance and kernel.group_width is None:
            raise ValueError('importance needs group_width below sqrt(2 spd_var), or its variance is infinite')
        if self.mixing == 'none' and (self.importance or kernel.group_width is not None):
            raise ValueError("mixing='none' has no sums over samples: leave out importance and group_width")

    @property
    def distribution(self) -> dict[str, Any]:
        """Arguments of :meth:`~dinor1.blocks.lie.MatrixGroup.sample`."""
        return dict(rot=self.rot, rot_bound=self.rot_bound, spd_var=self.spd_var, importance=self.importance)
