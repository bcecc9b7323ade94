"""Measure the equivariance error of a layer.

The law of a layer Phi from maps f to maps on the group is ``Phi(L_h f) = L_h Phi(f)`` with ``(L_h F)(x, g) =
F(h^-1 x, h^-1 g)``. With samples ``g_i`` it can fail for two reasons, which are measured separately:

- Interpolation, and the part of a kernel that its window cuts off. Measured with transported samples, ``g_i -> h g_i``
  together with the image: for exact kernels and images both sides are then equal.
- Monte Carlo noise, if the two sides use different samples: :func:`invariance_error`.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .affine import Affine2
from .matrix_group import MatrixGroup
from .samples import GroupSamples

Response = Callable[[Tensor, GroupSamples], Tensor]


def standard_elements(group: MatrixGroup) -> dict[str, Tensor]:
    """Test elements by name: those of a fixed list that are in the group. Float64 ``(2, 2)``."""

    def turn(degrees: float) -> Tensor:
        angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
        return torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)

    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    candidates = {
        'rotation 90': quarter,
        'rotation 20': turn(20.0),
        'rotation 45': turn(45.0),
        'shear 0.2': torch.tensor([[1.0, 0.2], [0.0, 1.0]], dtype=torch.float64),
        'stretch 1.2': torch.diag(torch.tensor([1.2, 1 / 1.2], dtype=torch.float64)),
        'scale 1.2': 1.2 * torch.eye(2, dtype=torch.float64),
    }
    return {name: h for name, h in candidates.items() if _is_member(group, h)}


def _is_member(group: MatrixGroup, h: Tensor) -> bool:
    try:
        group.validate(h)
    except ValueError:
        return False
    return True


def smooth_images(*shape: int, generator: torch.Generator | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Images ``(..., H, W)`` of four Gaussian blobs each near the centre, sigma 3 pixels, of random sign.

    They are smooth, so that interpolation is accurate, and 0 at the border, so that the outside does not matter.
    """
    *channels, height, width = shape
    # Draw centres and heights.
    centres = torch.rand(*channels, 4, 2, generator=generator, dtype=torch.float64) - 0.5
    centres = centres * 0.6 * torch.tensor([width, height], dtype=torch.float64)
    heights = torch.randn(*channels, 4, generator=generator, dtype=torch.float64)
    # Sum separable Gaussians.
    xs = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    ys = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    along_x = (-(xs - centres[..., :1]).square() / 18).exp()
    along_y = (-(ys - centres[..., 1:]).square() / 18).exp()
    image = torch.einsum('...b,...by,...bx->...yx', heights, along_y, along_x)
    return image.to(dtype or torch.get_default_dtype())


def disc(height: int, width: int, radius: float) -> Tensor:
    """``(H, W)``, 1 within ``radius`` (in units of half the shorter side) of the centre, else 0."""
    side = min(height, width)
    xs = (2 * torch.arange(width) + 1 - width) / side
    ys = (2 * torch.arange(height) + 1 - height) / side
    return ((xs.square() + ys.square().unsqueeze(-1)) <= radius**2).float()


def equivariance_error(
    response: Response,
    group: MatrixGroup,
    h: Tensor,
    x: Tensor,
    samples: GroupSamples,
    radius: float = 0.7,
) -> float:
    """Relative error of ``Phi(L_h f)[h g_i] = L_h (Phi(f)[g_i])``, with transported samples.

    ``|| M (Phi(L_h f)[h g] - warp_h Phi(f)[g]) || / || M warp_h Phi(f)[g] ||``, M a disc that excludes the border.

    Args:
        response: Phi, from a map and samples to a map ``(B, ..., H, W)``, or to vectors ``(B, C)`` that should not
            change under h.
        group: Group of h.
        h: ``(2, 2)``.
        x: Input map, ``(B, C, H, W)`` on the plane or ``(B, C, N, H, W)`` on ``samples``.
        samples: N elements.
        radius: Radius of M, in units of half the shorter side.

    Returns:
        0 for an exact layer; about 1.4 for two unrelated maps.
    """
    plane = Affine2(group)
    h = h.to(x)
    with torch.no_grad():
        # Compare the response to the moved image with the moved response.
        got = response(plane.warp(x, h), samples.transport(h))
        expected = response(x, samples)
        if expected.dim() > 2:
            mask = disc(*expected.shape[-2:], radius).to(expected)
            got, expected = got * mask, plane.warp(expected, h) * mask
    return ((got - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def invariance_error(
    response: Response,
    group: MatrixGroup,
    h: Tensor,
    x: Tensor,
    draw: Callable[[], GroupSamples],
    repeats: int = 20,
    transport: bool = False,
) -> float:
    """Mean relative change of invariant features, ``|| Phi(L_h f; S') - Phi(f; S) || / || Phi(f; S) ||``.

    With independent S and S', as in practice, this includes Monte Carlo noise, which falls with more samples.

    Args:
        response: Phi, from a map and samples to ``(B, C)``.
        group: Group of h.
        h: ``(2, 2)``; the identity gives the noise alone.
        x: Input map, ``(B, C, H, W)``.
        draw: Draws the second argument of ``response``, an object with a ``transport`` method.
        repeats: Number of draws to average over.
        transport: Use ``S' = h S`` instead, which leaves only the errors of interpolation and the window.
    """
    h = h.to(x)
    errors = []
    with torch.no_grad():
        moved = Affine2(group).warp(x, h)
        for _ in range(repeats):
            samples = draw()
            expected = response(x, samples)
            # Without transport, the response to the moved images has a draw of its own.
            got = response(moved, samples.transport(h) if transport else draw())
            errors.append((got - expected).norm() / expected.norm().clamp(min=1e-30))
    return torch.stack(errors).mean().item()


class EquivariantModule(nn.Module):
    """A layer that can measure its own equivariance error.

    Attributes:
        on_group: Whether its input is a map on the group, ``(B, C, N, H, W)``, or on the plane, ``(B, C, H, W)``.
        group: Group of the layer; None for layers that accept any group.
        in_channels: Channels of the input; None for layers that accept any number.
        check_size: Side of the maps used by :meth:`check_equivariance`.
    """

    on_group: bool = True
    group: MatrixGroup | None = None
    in_channels: int | None = None
    check_size: int = 41

    def respond(self, x: Tensor, samples: GroupSamples) -> Tensor:
        """Apply the layer with input and output on the same samples."""
        raise NotImplementedError

    def check_equivariance(
        self,
        elements: Mapping[str, Tensor] | None = None,
        *,
        group: MatrixGroup | None = None,
        size: int | None = None,
        num_images: int = 2,
        num_samples: int = 6,
        spd_var: float = 0.1,
        radius: float = 0.7,
        seed: int = 0,
    ) -> dict[str, float]:
        """Measure the error on smooth random maps with transported samples, see :func:`equivariance_error`.

        Args:
            elements: Group elements by name, ``(2, 2)`` each. Default: :func:`standard_elements`.
            group: For layers without a group of their own.
            size: Side of the maps, in pixels. Default: ``check_size``.
            num_images: Maps to average over.
            num_samples: N.
            spd_var: Variance of the samples, see :meth:`~dinor1.blocks.lie.MatrixGroup.sample`.
            radius: Radius of the disc that is compared.
            seed: Seed of maps and samples. The module's own random state does not change.

        Returns:
            Relative error per name.

        Raises:
            ValueError: the group is unknown, or an element is not in it.
        """
        group = self.group or group
        if group is None:
            raise ValueError(f'{type(self).__name__} has no group of its own; give one: check_equivariance(group=...)')
        # Draw samples and maps in the dtype and on the device of the layer.
        parameter = next(self.parameters(), torch.empty(0))
        kwargs = dict(dtype=parameter.dtype, device=parameter.device)
        generator = torch.Generator().manual_seed(seed)
        samples = group.sample(num_samples, generator, spd_var=spd_var, dtype=parameter.dtype).to(**kwargs)
        size = size or self.check_size
        lead = (num_images, self.in_channels or 3) + ((num_samples,) if self.on_group else ())
        x = smooth_images(*lead, size, size, generator=generator).to(**kwargs)
        # Measure in evaluation mode, and restore the mode.
        elements = standard_elements(group) if elements is None else elements
        was_training = self.training
        self.eval()
        try:
            return {
                name: equivariance_error(self.respond, group, h, x, samples, radius) for name, h in elements.items()
            }
        finally:
            self.train(was_training)
