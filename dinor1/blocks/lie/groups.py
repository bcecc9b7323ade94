"""Matrix groups by name: rotations, scalings, SL(n), GL+(n) for n = 2 (with image layers) and n = 3 (without)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .matrix_group import MatrixGroup
from .rotations import Angle


class SO2(MatrixGroup):
    """Rotations of the plane. Haar measure: uniform in the angle."""

    def __init__(self, angle: Angle = 'zero_two_pi') -> None:
        super().__init__(2, None, True, angle=angle)


class SO3(MatrixGroup):
    """Rotations of space, by rotation vectors. Haar measure: uniform."""

    def __init__(self) -> None:
        super().__init__(3, None, True)


class PositiveScaling(MatrixGroup):
    """Multiples ``s I``, s > 0. Haar measure: uniform in ln s."""

    def __init__(self, n: int = 2, alpha: float = 1.0) -> None:
        super().__init__(n, 'isotropic', False, alpha)


class Similarity2(MatrixGroup):
    """Rotations and scalings of the plane, ``s R``. Haar measure: uniform in ln s and the angle."""

    def __init__(self, alpha: float = 1.0, angle: Angle = 'zero_two_pi') -> None:
        super().__init__(2, 'isotropic', True, alpha, angle)


class GLp2(MatrixGroup):
    """GL+(2): all 2 x 2 matrices with positive determinant. Haar measure ``det(A)^-2 dA``."""

    def __init__(self, alpha: float = 1.0, angle: Angle = 'zero_two_pi') -> None:
        super().__init__(2, 'full', True, alpha, angle)


class SL2(MatrixGroup):
    """SL(2): 2 x 2 matrices with determinant 1. Coordinates in the published order, the angle in the middle."""

    def __init__(self, alpha: float = 1.0, angle: Angle = 'zero_two_pi') -> None:
        super().__init__(2, 'traceless', True, alpha, angle)

    def _join(self, spd: Tensor, code: Tensor) -> Tensor:
        return torch.cat([spd[..., 1:], code, spd[..., :1]], dim=-1)

    def _split(self, c: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([c[..., -1:], c[..., :1]], dim=-1), c[..., 1:-1]


class GLp3(MatrixGroup):
    """GL+(3): all 3 x 3 matrices with positive determinant."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(3, 'full', True, alpha)


class SL3(MatrixGroup):
    """SL(3): 3 x 3 matrices with determinant 1."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(3, 'traceless', True, alpha)


GROUPS: dict[str, type[MatrixGroup]] = {
    'so2': SO2,
    'scale2': PositiveScaling,
    'sim2': Similarity2,
    'gl2': GLp2,
    'sl2': SL2,
    'so3': SO3,
    'gl3': GLp3,
    'sl3': SL3,
}


def make_group(group: str | MatrixGroup, **options: Any) -> MatrixGroup:
    """Make a group from its name in :data:`GROUPS`; a group is returned unchanged.

    Args:
        group: Name or group.
        **options: Arguments of the class, such as ``angle='minus_pi_pi'``.

    Raises:
        ValueError: the name is unknown, or there are options for an existing group.
    """
    if isinstance(group, MatrixGroup):
        if options:
            raise ValueError(f'{group} exists already; pass {", ".join(options)} to its class instead')
        return group
    if group not in GROUPS:
        raise ValueError(f'group must be one of {", ".join(GROUPS)}; got {group!r}')
    return GROUPS[group](**options)


def plane_group(group: str | Mapping[str, Any] | MatrixGroup, angle: Angle) -> MatrixGroup:
    """Make a group of the plane.

    Args:
        group: Its name in :data:`GROUPS`; or a dict of its ``name`` and arguments of the class, such as
            ``dict(name='gl2', angle='minus_pi_pi')``; or a group, which is returned unchanged.
        angle: Default encoding of the angles, see :func:`~dinor1.blocks.lie.encode_angle`.

    Raises:
        ValueError: the name is unknown, or the group is not of the plane.
    """
    if isinstance(group, MatrixGroup):
        if group.n != 2:
            raise ValueError(f'images need a group of the plane, got {group}')
        return group
    options = dict(group) if isinstance(group, Mapping) else dict(name=group)
    name = options.pop('name', None)
    planar = [name for name, kind in GROUPS.items() if kind not in (SO3, GLp3, SL3)]
    if name not in planar:
        raise ValueError(f'images need a group of the plane, one of {", ".join(planar)}; got {name!r}')
    # Scalings have no angle.
    return make_group(name, **(options if name == 'scale2' else dict(angle=angle) | options))
