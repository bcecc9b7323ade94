"""SO(2) and SO(3): exponential, logarithm, coordinates for kernels, and samples.

SO(2) uses an angle. SO(3) uses a rotation vector ``angle * axis`` with angle in [0, pi], by Rodrigues' formula.
Haar measure is uniform with total mass 1.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from .checks import check_square

Angle = Literal['zero_two_pi', 'minus_pi_pi', 'cos_sin']
ANGLES: tuple[Angle, ...] = ('zero_two_pi', 'minus_pi_pi', 'cos_sin')
Spread = Literal['equidistant', 'cyclic', 'uniform', 'haar', 'sobol']
SPREADS: tuple[Spread, ...] = ('equidistant', 'cyclic', 'uniform', 'haar', 'sobol')


def rotation2(theta: Tensor) -> Tensor:
    """``(...)`` angles in radians -> ``(..., 2, 2)`` matrices ``[[cos, -sin], [sin, cos]]``."""
    cos, sin = theta.cos(), theta.sin()
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))


def angle2(rotation: Tensor) -> Tensor:
    """``(..., 2, 2)`` rotations -> ``(...)`` angles in (-pi, pi]."""
    check_square(rotation, 2, 'rotation')
    return torch.atan2(rotation[..., 1, 0] - rotation[..., 0, 1], rotation[..., 0, 0] + rotation[..., 1, 1])


def encode_angle(theta: Tensor, angle: Angle) -> Tensor:
    """Encode angles as inputs of a kernel.

    A kernel is a continuous function of the encoding, so it is discontinuous where the encoding is.

    Args:
        theta: ``(...)`` radians in (-pi, pi].
        angle: ``zero_two_pi``, the published choice, is discontinuous at the identity: rotations by +e and -e have the
            codes e and 2 pi - e. ``minus_pi_pi`` is discontinuous at the half turn. ``cos_sin`` is continuous.

    Returns:
        ``(..., 1)``, or ``(..., 2)`` for ``cos_sin``.
    """
    if angle == 'cos_sin':
        return torch.stack([theta.cos(), theta.sin()], dim=-1)
    if angle == 'zero_two_pi':
        # Snap rounding noise around the identity to 0, not to 0 or 2 pi at random; and around the half turn to pi.
        near = theta.sin().abs() < 1e-6
        snapped = torch.where(theta.cos() > 0, torch.zeros_like(theta), torch.full_like(theta, math.pi))
        theta = torch.where(near, snapped, theta.remainder(2 * math.pi))
    return theta.unsqueeze(-1)


def decode_angle(code: Tensor) -> Tensor:
    """Inverse of :func:`encode_angle` up to whole turns: ``(..., 1)`` or ``(..., 2)`` -> ``(...)``."""
    return torch.atan2(code[..., 1], code[..., 0]) if code.shape[-1] == 2 else code[..., 0]


def rotation3(vector: Tensor) -> Tensor:
    """Exponential of so(3), vectors to matrices: ``I + sinc(t) K + (1 - cos t) / t^2 K^2``, ``(..., 3, 3)``.

    Rodrigues' formula; ``t`` is the vector's length and ``K`` its cross-product matrix.
    """
    if vector.shape[-1] != 3:
        raise ValueError(f'vector must be (..., 3), got {tuple(vector.shape)}')
    # Compute sin(t) / t and (1 - cos t) / t^2, by series for small t.
    square = vector.square().sum(-1)[..., None, None]
    small = square < 1e-4
    t = torch.where(small, torch.ones_like(square), square).sqrt()
    first = torch.where(small, 1 - square / 6 * (1 - square / 20 * (1 - square / 42)), t.sin() / t)
    # 2 sin^2(t / 2) avoids the cancellation in 1 - cos t.
    second = torch.where(
        small, 0.5 - square / 24 * (1 - square / 30 * (1 - square / 56)), 2 * (t / 2).sin().square() / t.square()
    )
    # Build the cross-product matrix.
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    return torch.eye(3, dtype=vector.dtype, device=vector.device) + first * cross + second * (cross @ cross)


def vector3(rotation: Tensor) -> Tensor:
    """Logarithm on SO(3): ``(..., 3, 3)`` rotations -> ``(..., 3)`` rotation vectors of length at most pi.

    Uses the unit quaternion q: the entries of R give 4 q q^T, and its row with the largest diagonal entry is q times a
    number of at least 1, so that there is no cancellation at any angle, including the half turn.
    """
    check_square(rotation, 3, 'rotation')
    # Compute 4 q q^T from the entries of R.
    r = [[rotation[..., i, j] for j in range(3)] for i in range(3)]
    wx, wy, wz = r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]
    xy, xz, yz = r[0][1] + r[1][0], r[0][2] + r[2][0], r[1][2] + r[2][1]
    ww = 1 + r[0][0] + r[1][1] + r[2][2]
    xx = 1 + r[0][0] - r[1][1] - r[2][2]
    yy = 1 - r[0][0] + r[1][1] - r[2][2]
    zz = 1 - r[0][0] - r[1][1] + r[2][2]
    outer = torch.stack([ww, wx, wy, wz, wx, xx, xy, xz, wy, xy, yy, yz, wz, xz, yz, zz], dim=-1).unflatten(-1, (4, 4))
    # Take the row with the largest diagonal entry.
    row = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = outer.gather(-2, row[..., None, None].expand(*row.shape, 1, 4)).squeeze(-2)
    # q and -q are the same rotation; the one with w >= 0 has the shorter vector.
    q = q * torch.where(q[..., :1] < 0, -1.0, 1.0)
    # Scale the vector part to the angle.
    w, v = q[..., 0], q[..., 1:]
    length = torch.linalg.vector_norm(v, dim=-1)
    factor = torch.where(length > 0, 2 * torch.atan2(length, w) / length.clamp(min=1e-38), torch.zeros_like(length))
    return factor.unsqueeze(-1) * v


def sample_angles(n: int, spread: Spread, bound: float, generator: torch.Generator | None, **kwargs) -> Tensor:
    """``n`` angles in [-bound pi, bound pi].

    Args:
        n: Number of angles.
        spread: ``equidistant``, the published choice: includes both ends, so bound 1 has the half turn twice.
            ``cyclic``: ``2 pi i / n``, the group C_n (bound 1 only). ``uniform`` and ``haar``: random.
        bound: In (0, 1]; below 1 the samples do not cover the whole group.
        generator: Generator for random spreads.
        **kwargs: dtype and device.

    Returns:
        ``(n,)`` radians.
    """
    if spread == 'equidistant':
        return torch.linspace(-bound * math.pi, bound * math.pi, n, **kwargs)
    if spread == 'cyclic':
        return torch.arange(n, **kwargs) * (2 * math.pi / n)
    return (2 * torch.rand(n, generator=generator, **kwargs) - 1) * bound * math.pi


def angle_weights(n: int, spread: Spread, bound: float, **kwargs) -> Tensor:
    """Share of the full turn that each angle of :func:`sample_angles` represents: ``(n,)``, with sum ``bound``."""
    weight = torch.ones(n, **kwargs)
    if spread == 'equidistant' and n > 1:
        # An end represents half an interval; with bound 1 both ends are the same rotation and count once together.
        weight[[0, -1]] = 0.5
    return weight * (bound / weight.sum())


def sample_haar(n: int, dim: int, generator: torch.Generator | None, **kwargs) -> Tensor:
    """``(n, dim, dim)`` rotations from the Haar measure of SO(dim).

    The orthogonal factor of a Gaussian matrix, with signs that make it unique, and with a column flipped if it is a
    reflection: F. Mezzadri, *How to generate random matrices from the classical compact groups*, arXiv math-ph/0609050.
    """
    q, r = torch.linalg.qr(torch.randn(n, dim, dim, generator=generator, **kwargs))
    q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    flip = torch.ones(n, dim, **kwargs)
    flip[:, 0] = torch.linalg.det(q).sign()
    return q * flip.unsqueeze(-2)
