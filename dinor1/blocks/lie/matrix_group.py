"""Matrix groups in the product chart ``A = exp(L) R``, L symmetric and R a rotation.

Every group here is a subset of SPD(n) times SO(n), or one of the two factors. For GL+(n) and SL(n) this is the left
polar form: unique, smooth and surjective, whereas the exponential of the Lie algebra is not surjective. So every
element has coordinates (of L and of R), Haar measure is the product of the invariant measures of the factors, and a
draw of each factor is a draw from the group. Mironenco and Forre, *Lie Group Decompositions for Equivariant Neural
Networks*, arXiv 2310.11366. All these groups are unimodular; with translations they are not, see
:mod:`~dinor1.blocks.lie.affine`.
"""

from typing import Any

import torch
from torch import Tensor

from . import sym2, symn
from .checks import check_finite, check_positive_determinant, check_square, values_are_readable
from .rotations import (
    ANGLES,
    SPREADS,
    Angle,
    Spread,
    angle2,
    angle_weights,
    decode_angle,
    encode_angle,
    rotation2,
    rotation3,
    sample_angles,
    sample_haar,
    vector3,
)
from .samples import GroupSamples
from .spd import SPD, Part


class MatrixGroup:
    """A group of n x n matrices ``exp(L) R``.

    Args:
        n: 2 or 3.
        part: Set of symmetric L, see :class:`~dinor1.blocks.lie.SPD`; None: rotations only.
        rotations: Whether the group has rotations.
        alpha: Scale of the metric on L, > 0: coordinates of L are in units of ``1 / sqrt(alpha)``.
        angle: Encoding of rotations of the plane, see :func:`~dinor1.blocks.lie.encode_angle`.

    Attributes:
        dim: Length of :meth:`coords`.
        tangent_dim: Length of :meth:`hat`'s argument, the dimension of the group.
        spd: The symmetric factor, or None.
        unimodular_on_R2: Whether all determinants are 1: the group preserves area (for n = 3 volume).

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, n: int, part: Part | None, rotations: bool, alpha: float = 1.0, angle: Angle = 'zero_two_pi'
    ) -> None:
        # Check the arguments.
        if n not in (2, 3):
            raise ValueError(f'n must be 2 or 3, got {n}')
        if angle not in ANGLES:
            raise ValueError(f'angle must be one of {", ".join(ANGLES)}; got {angle!r}')
        # Set up the factors and count their coordinates.
        self.n, self.rotations, self.alpha, self.angle = n, rotations, alpha, angle
        self.spd = SPD(n, part, alpha) if part else None
        self.unimodular_on_R2 = part in (None, 'traceless')
        spd_dim = self.spd.dim if self.spd else 0
        free = (n * (n - 1) // 2) if rotations else 0
        self.tangent_dim = spd_dim + free
        self.dim = spd_dim + (2 if n == 2 and rotations and angle == 'cos_sin' else free)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(alpha={self.alpha}, angle={self.angle!r})'

    # Coordinates ---------------------------------------------------------------------------------------------

    def coords(self, a: Tensor, check: bool = True) -> Tensor:
        """Coordinates of group elements: those of ``L = log(A A^T) / 2``, then those of R.

        Args:
            a: ``(..., n, n)``, elements of the group.
            check: Whether to check values (on CPU only); products of checked elements need no check.

        Returns:
            ``(..., dim)``. GL+(2): ``(L00, sqrt2 L01, L11, theta)``; SL(2): ``(sqrt2 L01, theta, sqrt2 L00)``; SO(2):
            theta; scaling by s: ``sqrt2 ln s``; all of L times ``sqrt(alpha)``. For n = 3 a rotation vector is last.

        Raises:
            TypeError: ``a`` is not floating point.
            ValueError: ``a`` has another shape, NaN, or is not in the group.
        """
        check_square(a, self.n, 'a')
        if check and values_are_readable(a):
            self.validate(a)
        # Scalings: one coordinate from the determinant.
        if not self.rotations:
            scale = torch.linalg.det(a).log() / self.n
            return self.spd.vee(scale[..., None, None] * torch.eye(self.n, dtype=a.dtype, device=a.device))
        # Other groups: polar factors, then coordinates of each.
        log_p, code = None, None
        if self.n == 2:
            if self.spd is None:
                theta = angle2(a)
            else:
                log_p, _, theta = sym2.polar2(a, check=False)
            code = encode_angle(theta, self.angle)
        else:
            rotation = a
            if self.spd is not None:
                log_p, rotation = symn.polar(a, check=False)
            code = vector3(rotation)
        return code if log_p is None else self._join(self.spd.vee(log_p), code)

    def from_coords(self, c: Tensor) -> Tensor:
        """Inverse of :meth:`coords`: ``(..., dim)`` -> the element ``exp(L) R``, ``(..., n, n)``."""
        self._check_length(c, self.dim)
        spd, code = self._split(c)
        rotation = None
        if self.rotations:
            rotation = rotation2(decode_angle(code)) if self.n == 2 else rotation3(code)
        return self._product(self.spd.hat(spd) if self.spd else None, rotation)

    def offsets(self, c: Tensor) -> Tensor:
        """Coordinates minus those of the identity, for norms. Only ``cos_sin`` is not 0 at the identity."""
        if self.dim == self.tangent_dim:
            return c
        spd, code = self._split(c)
        return self._join(spd, torch.stack([code[..., 0] - 1, code[..., 1]], dim=-1))

    def log_spd_norm(self, c: Tensor) -> Tensor:
        """``|log(A A^T)|`` of elements with coordinates c, their distance from the rotations: ``(...)``."""
        spd, _ = self._split(c)
        return 2 * torch.linalg.vector_norm(spd, dim=-1) / self.alpha**0.5

    def _join(self, spd: Tensor, code: Tensor) -> Tensor:
        return torch.cat([spd, code], dim=-1)

    def _split(self, c: Tensor) -> tuple[Tensor, Tensor]:
        spd_dim = self.spd.dim if self.spd else 0
        return c[..., :spd_dim], c[..., spd_dim:]

    def _product(self, log_p: Tensor | None, rotation: Tensor | None) -> Tensor:
        if log_p is None:
            return rotation
        p = self.spd.exp(log_p)
        return p if rotation is None else p @ rotation

    def _check_length(self, vector: Tensor, length: int) -> None:
        if vector.dim() < 1 or vector.shape[-1] != length:
            raise ValueError(f'{type(self).__name__} needs vectors (..., {length}), got {tuple(vector.shape)}')

    # Lie algebra ---------------------------------------------------------------------------------------------

    def hat(self, v: Tensor) -> Tensor:
        """Lie algebra element with coordinates ``v``, in the order of :meth:`coords`: symmetric plus skew part.

        Args:
            v: ``(..., tangent_dim)``.

        Returns:
            ``(..., n, n)``.
        """
        self._check_length(v, self.tangent_dim)
        spd, turn = self._split(v)
        x = self.spd.hat(spd) if self.spd else 0
        if self.rotations:
            x = x + torch.einsum('...k,kij->...ij', turn, _skew_basis(self.n).to(v))
        return x

    def vee(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`hat`: ``(..., n, n)`` -> ``(..., tangent_dim)``."""
        check_square(x, self.n, 'x')
        parts = [self.spd.vee(x)] if self.spd else []
        if self.rotations:
            parts.append(torch.einsum('...ij,kij->...k', x, _skew_basis(self.n).to(x)) / 2)
        return self._join(*parts) if len(parts) == 2 else parts[0]

    def exp(self, x: Tensor) -> Tensor:
        """Exponential of the Lie algebra, ``(..., n, n)``. Not surjective for GL+ and SL; :meth:`from_coords` is."""
        check_square(x, self.n, 'x')
        return sym2.general_exp(x) if self.n == 2 else torch.linalg.matrix_exp(x)

    def log(self, a: Tensor) -> Tensor:
        """Principal logarithm in the Lie algebra, inverse of :meth:`exp` where it exists.

        Args:
            a: ``(..., n, n)``, elements of the group.

        Raises:
            ValueError: ``a`` is not in the group, or has no real logarithm, such as diag(-2, -1/2).
            NotImplementedError: GL+(3) and SL(3) have no closed form.
        """
        check_square(a, self.n, 'a')
        if values_are_readable(a):
            self.validate(a)
        # Use a closed form for 2 x 2 matrices, and the coordinates for others.
        if self.n == 2:
            return sym2.general_log(a)
        if self.spd is not None and self.rotations:
            raise NotImplementedError(f'{type(self).__name__} has no closed-form logarithm; use coords')
        return self.hat(self.coords(a, check=False))

    # Measure and samples -------------------------------------------------------------------------------------

    def haar_density(self, c: Tensor) -> Tensor:
        """Density of Haar measure in the coordinates of ``log S = 2 L`` and the uniform measure on rotations.

        Args:
            c: ``(..., dim)`` from :meth:`coords`.

        Returns:
            ``(...)``, 1 at the identity.
        """
        self._check_length(c, self.dim)
        if self.spd is None:
            return torch.ones_like(c[..., 0])
        return self.spd.haar_density(2 * self._split(c)[0])

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        rot: Spread | None = None,
        rot_bound: float = 1.0,
        spd_var: float = 0.1,
        importance: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> GroupSamples:
        """Draw n elements ``S^(1/2) R``: n pairs of log-normal S and rotation R.

        Args:
            n: Number of elements.
            generator: Random generator on ``device``; None: torch's global one.
            rot: Distribution of the rotations, see :func:`~dinor1.blocks.lie.sample_angles`. None: ``equidistant`` for
                n = 2, the published choice, and ``haar`` for n = 3. ``sobol`` takes angles and stretches together from
                a scrambled Sobol' sequence, which covers the group more evenly than independent draws (n = 2 only).
            rot_bound: Share of the full turn, (0, 1]. Below 1 the samples do not cover a subgroup.
            spd_var: Variance of the coordinates of ``log S``; those of ``log P`` have a quarter of it.
            importance: Compute weights that make ``sum_i w_i f(g_i)`` an unbiased estimate of the Haar integral of f,
                with total mass 1 on the rotations. Its variance is finite only where f falls off faster than
                ``exp(-|log S|^2 / (4 spd_var))``. Otherwise all weights are 1, as published.
            dtype: Floating-point type; default: torch's default.
            device: Device of the samples.

        Raises:
            ValueError: a number is out of range, or ``rot`` is not defined for n = 3.
        """
        rot = rot or ('equidistant' if self.n == 2 else 'haar')
        self._check_sampling(n, rot, rot_bound, spd_var)
        kwargs: dict[str, Any] = dict(dtype=dtype or torch.get_default_dtype(), device=device)
        weight = torch.ones(n, **kwargs)
        log_p = rotation = None
        sobol = self._draw_sobol(n, generator, **kwargs) if rot == 'sobol' else None
        # Draw the symmetric factor, and its share of the weights.
        if self.spd is not None:
            if sobol is None:
                v = self.spd.sample_tangent(n, spd_var, generator, **kwargs)
            else:
                v = torch.special.ndtri(sobol[:, : self.spd.dim]) * spd_var**0.5
            log_p = self.spd.hat(v) / 2
            if importance:
                weight = self.spd.haar_density(v) / self.spd.normal_density(v, spd_var)
        # Draw the rotations.
        if self.rotations:
            if sobol is not None:
                rotation = rotation2((2 * sobol[:, -1] - 1) * rot_bound * torch.pi)
            elif self.n == 2:
                rotation = rotation2(sample_angles(n, rot, rot_bound, generator, **kwargs))
            else:
                rotation = sample_haar(n, self.n, generator, **kwargs)
        if importance:
            # Equidistant samples at the ends of the rotations cover half an interval only.
            weight = weight * angle_weights(n, rot if self.rotations else 'uniform', rot_bound, **kwargs)
        # Multiply the factors, and invert the product without a matrix inversion.
        g = self._product(log_p, rotation)
        p_inv = self.spd.exp(-log_p) if log_p is not None else None
        g_inv = rotation.mT @ p_inv if rotation is not None and p_inv is not None else None
        if g_inv is None:
            g_inv = rotation.mT if p_inv is None else p_inv
        return GroupSamples(g, g_inv.contiguous(), weight)

    def _draw_sobol(self, n: int, generator: torch.Generator | None, **kwargs: Any) -> Tensor:
        """``(n, tangent_dim)`` points of a scrambled Sobol' sequence, inside (0, 1)."""
        seed = int(torch.randint(2**31, (), generator=generator, device=kwargs['device']))
        points = torch.quasirandom.SobolEngine(self.tangent_dim, scramble=True, seed=seed).draw(n, dtype=torch.float64)
        # The engine can return 0, whose normal quantile is infinite.
        return points.clamp(1e-6, 1 - 1e-6).to(**kwargs)

    def _check_sampling(self, n: int, rot: Spread, rot_bound: float, spd_var: float) -> None:
        if n < 1:
            raise ValueError(f'the number of samples must be at least 1, got {n}')
        if rot not in SPREADS:
            raise ValueError(f'rot must be one of {", ".join(SPREADS)}; got {rot!r}')
        if not 0 < rot_bound <= 1:
            raise ValueError(f'rot_bound must lie in (0, 1], got {rot_bound}')
        if not spd_var > 0:
            raise ValueError(f'spd_var must be positive, got {spd_var}')
        if self.n == 3 and (rot not in ('haar', 'uniform') or rot_bound != 1):
            raise ValueError(f"rotations of space are drawn with rot='haar' and rot_bound=1, got {rot!r}, {rot_bound}")
        if rot in ('haar', 'cyclic') and rot_bound != 1:
            raise ValueError(f'rot={rot!r} covers the whole turn; got rot_bound={rot_bound}')

    # Validation ----------------------------------------------------------------------------------------------

    def validate(self, a: Tensor) -> None:
        """Raise unless every matrix is in the group, to about half of the digits. Reads the values.

        Raises:
            TypeError: ``a`` is not floating point.
            ValueError: a matrix has another shape, NaN or a determinant <= 0, is singular or outside of the group.
        """
        # Check the properties that all groups have in common.
        name = f'an element of {type(self).__name__}'
        check_square(a, self.n, name)
        check_finite(a, name)
        check_positive_determinant(a, name)
        a = a.detach()
        tolerance = torch.finfo(a.dtype).eps ** 0.5
        square = a.square().sum((-2, -1))
        # Check the determinant of groups that preserve area.
        if self.unimodular_on_R2:
            determinant = torch.linalg.det(a)
            bad = (determinant - 1).abs() > tolerance * square.clamp(min=1)
            if bad.any():
                raise ValueError(f'{name} must have determinant 1, got {determinant[bad][0].item():.6g}')
        # Check scalings, or rotations with scalings.
        eye = torch.eye(self.n, dtype=a.dtype, device=a.device)
        gram = a @ a.mT
        if not self.rotations:
            bad = (a - a.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * eye).abs().amax((-2, -1))
            bad = (bad > tolerance * square.sqrt()) | (a[..., 0, 0] <= 0)
            if bad.any():
                raise ValueError(f'{name} must be a positive multiple of the identity, got {a[bad][0].tolist()}')
        elif self.spd is None or self.spd.part == 'isotropic':
            spread = (gram - (square / self.n)[..., None, None] * eye).abs().amax((-2, -1))
            bad = spread > tolerance * square
            if bad.any():
                raise ValueError(f'{name} must have orthogonal rows of equal length, got {a[bad][0].tolist()}')


def _skew_basis(n: int) -> Tensor:
    """Skew matrices ``(k, n, n)``, float64: the quarter turn, or the cross-product matrices of the three axes."""
    if n == 2:
        return torch.tensor([[[0.0, -1.0], [1.0, 0.0]]], dtype=torch.float64)
    basis = torch.zeros(3, 3, 3, dtype=torch.float64)
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        basis[k, j, i], basis[k, i, j] = 1.0, -1.0
    return basis
