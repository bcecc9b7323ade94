"""Affine groups: a matrix group H with the translations that it acts on, ``G = R^n x| H``.

An element ``(x, h)`` moves points by ``p -> h p + x``. Products are ``(x, h)(y, k) = (x + h y, h k)``.
On images the action is ``(L f)(p) = f(h^-1 (p - x))``.

G is not unimodular unless all determinants are 1. Left Haar measure is ``|det h|^-1 dx dmu(h)``, right Haar measure
``dx dmu(h)``: their ratio is the modular function.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_square, values_are_readable
from .matrix_group import MatrixGroup


class Affine:
    """``R^n x| H``; elements are ``(..., n, n + 1)`` tensors, the matrix followed by the column of the shift.

    Args:
        group: H, for n = 2 or 3.
    """

    def __init__(self, group: MatrixGroup) -> None:
        self.group = group
        self.n = group.n

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.group})'

    def element(self, h: Tensor, x: Tensor | None = None) -> Tensor:
        """Join a matrix ``(..., n, n)`` and a shift ``(..., n)``; default: no shift.

        Raises:
            TypeError: the matrix is not floating point.
            ValueError: shapes do not fit, or the matrix is not in H (values are read on CPU only).
        """
        # Check the matrix.
        check_square(h, self.n, 'h')
        if values_are_readable(h):
            self.group.validate(h)
        # Check the shift, which is 0 by default.
        if x is None:
            x = h.new_zeros(*h.shape[:-2], self.n)
        if x.shape[-1:] != (self.n,):
            raise ValueError(f'a shift must be (..., {self.n}), got {tuple(x.shape)}')
        # Broadcast both to one batch, and join them to (..., n, n + 1).
        batch = torch.broadcast_shapes(h.shape[:-2], x.shape[:-1])
        return torch.cat([h.expand(*batch, self.n, self.n), x.expand(*batch, self.n).unsqueeze(-1)], dim=-1)

    def compose(self, a: Tensor, b: Tensor) -> Tensor:
        """Product ``a b``, which applies b first. Shapes broadcast."""
        (h, x), (k, y) = self._parts(a), self._parts(b)
        shift = x + (h @ y.unsqueeze(-1)).squeeze(-1)
        matrix = h @ k
        return torch.cat([matrix, shift.expand(matrix.shape[:-1]).unsqueeze(-1)], dim=-1)

    def inverse(self, a: Tensor) -> Tensor:
        """``(x, h)^-1 = (-h^-1 x, h^-1)``."""
        h, x = self._parts(a)
        inverse = torch.linalg.inv(h)
        return torch.cat([inverse, -inverse @ x.unsqueeze(-1)], dim=-1)

    def act(self, a: Tensor, points: Tensor) -> Tensor:
        """Move points: ``(..., n, n + 1)`` and ``(..., P, n)`` -> ``(..., P, n)``."""
        h, x = self._parts(a)
        if points.shape[-1] != self.n:
            raise ValueError(f'points must be (..., P, {self.n}), got {tuple(points.shape)}')
        return points @ h.mT + x.unsqueeze(-2)

    def modular(self, a: Tensor) -> Tensor:
        """Modular function ``Delta(x, h) = |det h|^-1``, ``(...)``: left Haar measure over right Haar measure."""
        return torch.linalg.det(self._parts(a)[0]).abs().reciprocal()

    def haar_density(self, a: Tensor) -> Tensor:
        """Density of left Haar measure in ``dx``, ``d log S`` and the uniform measure on rotations, ``(...)``."""
        h, _ = self._parts(a)
        return self.modular(a) * self.group.haar_density(self.group.coords(h))

    def _parts(self, a: Tensor) -> tuple[Tensor, Tensor]:
        if a.dim() < 2 or a.shape[-2:] != (self.n, self.n + 1):
            raise ValueError(f'an affine element must be (..., {self.n}, {self.n + 1}), got {tuple(a.shape)}')
        return a[..., :-1], a[..., -1]


class Affine2(Affine):
    """Affine groups of the plane, and their action on images.

    Points are (x, y) relative to the image's centre, x to the right and y down, in units of half the shorter side: a
    square image is [-1, 1]^2 from edge to edge, pixel j of n has its centre at ``(2 j + 1) / n - 1``
    (align_corners=False).
    """

    def __init__(self, group: MatrixGroup) -> None:
        if group.n != 2:
            raise ValueError(f'Affine2 needs a group of 2 x 2 matrices, got {group}')
        super().__init__(group)

    def warp(self, image: Tensor, a: Tensor, mode: str = 'bicubic', padding_mode: str = 'zeros') -> Tensor:
        """Act on images: ``out(p) = image(h^-1 (p - x))``, exact except for interpolation and the border.

        Args:
            image: ``(B, ..., H, W)``; the axes between the first and the last two are channels.
            a: ``(2, 2)`` or ``(2, 3)`` for all images, or one per image with a leading axis B.
            mode: ``bicubic``, ``bilinear`` or ``nearest``.
            padding_mode: Values outside of the image, as in :func:`torch.nn.functional.grid_sample`.

        Returns:
            Images of the same shape.

        Raises:
            ValueError: shapes do not fit, or a matrix is not in the group.
        """
        if image.dim() < 3:
            raise ValueError(f'image must be (B, ..., H, W), got {tuple(image.shape)}')
        # Bring elements and images into a common form.
        if a.shape[-1:] == (2,):
            a = self.element(a)
        flat = image.flatten(1, -3) if image.dim() > 3 else image.unsqueeze(1)
        batch, (height, width) = flat.shape[0], flat.shape[-2:]
        a = a.to(image)
        if a.dim() == 3 and len(a) not in (1, batch):
            raise ValueError(f'{len(a)} transformations do not fit {batch} images')
        # Coordinates of the pixel centres.
        side = min(height, width)
        half = image.new_tensor([width / side, height / side])
        ys, xs = torch.meshgrid(
            (2 * torch.arange(height, device=image.device, dtype=image.dtype) + 1 - height) / side,
            (2 * torch.arange(width, device=image.device, dtype=image.dtype) + 1 - width) / side,
            indexing='ij',
        )
        points = torch.stack([xs, ys], dim=-1).flatten(0, 1)
        # Sample each image at the inverse positions.
        source = self.act(self.inverse(a), points) / half
        grid = source.unflatten(-2, (height, width)).expand(batch, height, width, 2)
        warped = F.grid_sample(flat, grid, mode=mode, padding_mode=padding_mode, align_corners=False)
        return warped.reshape(image.shape)
