"""Symmetric positive definite matrices: tangent vectors, exponential chart, invariant measure, samples.

A matrix S of SPD(n) is ``exp(hat(v))`` of one tangent vector v, in an orthonormal basis of symmetric matrices with the
inner product ``alpha tr(X Y)``. GL+(n) acts by ``S -> h S h^T``; the measure that is invariant under it is, in v,

    dmu = prod over i < j of sinh((x_i - x_j) / 2) / ((x_i - x_j) / 2) dv,     x_i the eigenvalues of hat(v)

up to a constant. The traceless part (determinant 1, invariant under SL(n)) and the multiples of the identity have the
same density in their own coordinates. SPD is not a group; :mod:`~dinor1.blocks.lie.groups` combines it with rotations.
"""

import math
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from . import sym2, symn
from .checks import check_square

Part = Literal['full', 'traceless', 'isotropic']


class SPD:
    """Symmetric positive definite n x n matrices in exponential coordinates.

    Args:
        n: 2 or 3.
        part: ``full``; ``traceless`` (determinant 1); ``isotropic`` (multiples of the identity).
        alpha: Scale of the metric, > 0.

    Attributes:
        dim: Number of coordinates. For n = 2, full: X00, X01, X11; traceless: (X00 - X11) / 2, X01.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, n: int = 2, part: Part = 'full', alpha: float = 1.0) -> None:
        if n not in (2, 3):
            raise ValueError(f'n must be 2 or 3, got {n}')
        if part not in ('full', 'traceless', 'isotropic'):
            raise ValueError(f"part must be 'full', 'traceless' or 'isotropic', got {part!r}")
        if not alpha > 0:
            raise ValueError(f'alpha must be positive, got {alpha}')
        self.n, self.part, self.alpha = n, part, alpha
        basis = _basis(n, part) / math.sqrt(alpha)
        self.dim = len(basis)
        # Cache a copy per dtype and device: copying in every forward pass would make the host wait.
        self._bases = {(basis.dtype, basis.device): basis}

    @property
    def _functions(self) -> ModuleType:
        # Not an attribute: modules cannot be copied or pickled, but models must be.
        return sym2 if self.n == 2 else symn

    def __repr__(self) -> str:
        return f'{type(self).__name__}(n={self.n}, part={self.part!r}, alpha={self.alpha})'

    def _basis_like(self, x: Tensor) -> Tensor:
        key = (x.dtype, x.device)
        if key not in self._bases:
            self._bases[key] = next(iter(self._bases.values())).to(x)
        return self._bases[key]

    def hat(self, v: Tensor) -> Tensor:
        """Tangent vectors ``(..., dim)`` -> symmetric matrices ``(..., n, n)``."""
        if v.dim() < 1 or v.shape[-1] != self.dim:
            raise ValueError(f'a tangent vector must be (..., {self.dim}), got {tuple(v.shape)}')
        return torch.einsum('...k,kij->...ij', v, self._basis_like(v))

    def vee(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`hat`; other matrices are projected first."""
        check_square(x, self.n, 'x')
        return torch.einsum('...ij,kij->...k', x, self._basis_like(x)) * self.alpha

    def exp(self, x: Tensor) -> Tensor:
        """Symmetric -> positive definite, ``(..., n, n)``."""
        return self._functions.sym_exp(x)

    def log(self, s: Tensor) -> Tensor:
        """Positive definite -> symmetric, ``(..., n, n)``; raises ValueError if not positive definite."""
        return self._functions.spd_log(s)

    def sqrt(self, s: Tensor) -> Tensor:
        """Symmetric square root, ``(..., n, n)``."""
        return self._functions.spd_sqrt(s)

    def invsqrt(self, s: Tensor) -> Tensor:
        """Inverse symmetric square root, ``(..., n, n)``."""
        return self._functions.spd_invsqrt(s)

    def haar_density(self, v: Tensor) -> Tensor:
        """Density of the invariant measure with respect to ``dv``: ``(..., dim)`` -> ``(...)``, 1 at the identity."""
        x = self.hat(v)
        if self.part == 'isotropic':
            return torch.ones_like(v[..., 0])
        # For 2 x 2 matrices, half the difference of the eigenvalues has a closed form.
        if self.n == 2:
            return sym2.sinhc(((x[..., 0, 0] - x[..., 1, 1]) / 2).square() + x[..., 0, 1].square())
        # In general, multiply over all pairs of eigenvalues.
        eigenvalues = torch.linalg.eigvalsh(x)
        i, j = torch.triu_indices(self.n, self.n, 1, device=v.device)
        return sym2.sinhc(((eigenvalues[..., i] - eigenvalues[..., j]) / 2).square()).prod(-1)

    def sample_tangent(self, n: int, variance: float, generator: torch.Generator | None = None, **kwargs) -> Tensor:
        """``(n, dim)`` tangent vectors from N(0, variance I): a log-normal distribution around the identity."""
        return torch.randn(n, self.dim, generator=generator, **kwargs) * math.sqrt(variance)

    def normal_density(self, v: Tensor, variance: float) -> Tensor:
        """Density of :meth:`sample_tangent` at ``v``: ``(..., dim)`` -> ``(...)``."""
        return (-v.square().sum(-1) / (2 * variance)).exp() / (2 * math.pi * variance) ** (self.dim / 2)


class SPD2(SPD):
    """SPD(2), or with ``traceless=True`` its determinant-1 part.

    Coordinates: ``X = [[v0, v1 / sqrt 2], [v1 / sqrt 2, v2]] / sqrt(alpha)``, or traceless
    ``X = [[v0, v1], [v1, -v0]] / sqrt(2 alpha)``.
    """

    def __init__(self, traceless: bool = False, alpha: float = 1.0) -> None:
        super().__init__(2, 'traceless' if traceless else 'full', alpha)


class SPD3(SPD):
    """SPD(3), 6 coordinates, or with ``traceless=True`` its determinant-1 part, 5 coordinates."""

    def __init__(self, traceless: bool = False, alpha: float = 1.0) -> None:
        super().__init__(3, 'traceless' if traceless else 'full', alpha)


def _basis(n: int, part: Part) -> Tensor:
    """Orthonormal basis, ``(dim, n, n)`` float64, of symmetric matrices with the inner product tr(X Y)."""
    eye = torch.eye(n, dtype=torch.float64)
    if part == 'isotropic':
        return (eye / math.sqrt(n))[None]
    unit = eye[:, None, :, None] * eye[None, :, None, :]
    off = (unit + unit.transpose(0, 1)) / math.sqrt(2)
    if part == 'full':
        return torch.stack([unit[i, i] if i == j else off[i, j] for i in range(n) for j in range(i, n)])
    # Traceless diagonal matrices after Helmert: entry 1 against 2, then 1 and 2 against 3.
    steps = [
        torch.diag(torch.cat([torch.ones(k), -k * torch.ones(1), torch.zeros(n - k - 1)]).double())
        / math.sqrt(k * (k + 1))
        for k in range(1, n)
    ]
    return torch.stack(steps + [off[i, j] for i in range(n) for j in range(i + 1, n)])
