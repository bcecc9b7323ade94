"""Coordinates, Lie algebras and membership of all registered groups, so that new groups are tested."""

import math

import pytest
import torch

from dinor1.blocks.lie import GROUPS, SL2, SO2, SPD, GLp2, PositiveScaling, encode_angle, make_group
from dinor1.blocks.lie.rotations import rotation2, rotation3, vector3
from tests.blocks.lie.conftest import random_matrices

all_groups = pytest.mark.parametrize('name', GROUPS)
BRANCHES = [
    (name, angle) for name in ('so2', 'sim2', 'sl2', 'gl2') for angle in ('zero_two_pi', 'minus_pi_pi', 'cos_sin')
]


def elements(group, count=200, seed=0):
    """Random float64 elements from the whole group."""
    generator = torch.Generator().manual_seed(seed)
    rot = 'uniform' if group.n == 2 else None
    return group.sample(count, generator, rot=rot, spd_var=1.0, dtype=torch.float64).g


@all_groups
def test_group_coordinates_cover_group(name):
    group = make_group(name)
    g = elements(group)
    c = group.coords(g)
    assert c.shape == (200, group.dim)
    torch.testing.assert_close(group.from_coords(c), g, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(group.coords(group.from_coords(c)), c, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(('name', 'angle'), BRANCHES)
def test_group_coordinates_of_every_angle_encoding(name, angle):
    group = make_group(name, angle=angle)
    g = elements(group)
    c = group.coords(g)
    assert c.shape == (200, group.dim)
    torch.testing.assert_close(group.from_coords(c), g, rtol=1e-11, atol=1e-11)
    eye = torch.eye(2, dtype=torch.float64)
    # Offsets, used in norms and the smooth mask, are 0 at the identity for every encoding.
    assert group.offsets(group.coords(eye)).abs().max() < 1e-12


@all_groups
def test_group_samples_and_inverses(name):
    group = make_group(name)
    g, g_inv, weight = group.sample(50, torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(g @ g_inv, torch.eye(group.n, dtype=torch.float64).expand_as(g), rtol=0, atol=1e-12)
    assert torch.equal(weight, torch.ones(50, dtype=torch.float64))
    group.validate(g)
    group.validate(g @ g.roll(1, 0))
    again = group.sample(50, torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(again.g, g)


@all_groups
def test_group_lie_algebra(name):
    group = make_group(name)
    v = 0.3 * torch.randn(20, group.tangent_dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = group.hat(v)
    torch.testing.assert_close(group.vee(x), v)
    g = group.exp(x)
    group.validate(g)
    torch.testing.assert_close(g, torch.linalg.matrix_exp(x), rtol=1e-12, atol=1e-12)
    if name in ('gl3', 'sl3'):
        with pytest.raises(NotImplementedError, match='no closed-form logarithm; use coords'):
            group.log(g)
    else:
        torch.testing.assert_close(group.log(g), x, rtol=1e-9, atol=1e-11)


def test_group_chart_reaches_elements_without_logarithm():
    """diag(-2, -1/2) has trace below -2, and every exponential of SL(2) has trace -2 or more."""
    group = SL2()
    a = torch.diag(torch.tensor([-2.0, -0.5], dtype=torch.float64))
    c = group.coords(a)
    # L = diag(ln 2, -ln 2) and the half turn; in the published order (sqrt2 L01, theta, sqrt2 L00).
    torch.testing.assert_close(c, torch.tensor([0.0, math.pi, math.sqrt(2) * math.log(2)], dtype=torch.float64))
    torch.testing.assert_close(group.from_coords(c), a, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match='no real logarithm'):
        group.log(a)
    v = 3 * torch.randn(10_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert group.exp(group.hat(v)).diagonal(dim1=-2, dim2=-1).sum(-1).min() >= -2 - 1e-9


def test_group_known_coordinates():
    group = GLp2()
    a = torch.diag(torch.tensor([2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(group.coords(a), torch.tensor([math.log(2), 0, math.log(3), 0], dtype=torch.float64))
    scaling = PositiveScaling().coords(2 * torch.eye(2))
    torch.testing.assert_close(scaling, torch.tensor([math.sqrt(2) * math.log(2)]))
    # The scale of the metric affects the coordinates of L, not the angle.
    turned = a @ rotation2(torch.tensor(0.5, dtype=torch.float64))
    expected = torch.tensor([2 * math.log(2), 0, 2 * math.log(3), 0.5], dtype=torch.float64)
    torch.testing.assert_close(GLp2(alpha=4.0).coords(turned), expected)
    torch.testing.assert_close(GLp2(alpha=4.0).from_coords(expected), turned)


def test_encode_angle_near_discontinuities():
    tiny = torch.tensor([1e-8, -1e-8, math.pi - 1e-8, -math.pi + 1e-8, 1e-3, -1e-3], dtype=torch.float64)
    published = encode_angle(tiny, 'zero_two_pi')[:, 0]
    expected = torch.tensor([0, 0, math.pi, math.pi, 1e-3, 2 * math.pi - 1e-3], dtype=torch.float64)
    torch.testing.assert_close(published, expected, rtol=0, atol=0)
    assert torch.equal(encode_angle(tiny, 'minus_pi_pi')[:, 0], tiny)
    # The published encoding jumps at the identity, the others do not.
    assert (published[5] - published[4]).abs() > 6
    assert (encode_angle(tiny, 'cos_sin')[5] - encode_angle(tiny, 'cos_sin')[4]).norm() < 3e-3


@pytest.mark.parametrize('angle', [0.0, 1e-9, 1e-3, 1.0, math.pi - 1e-9, math.pi])
def test_rotation_vectors_round_trip(angle):
    axis = torch.randn(50, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    v = angle * axis / axis.norm(dim=-1, keepdim=True)
    r = rotation3(v)
    torch.testing.assert_close(r @ r.mT, torch.eye(3, dtype=torch.float64).expand_as(r), rtol=0, atol=1e-14)
    cross = torch.linalg.cross(v[:, None].expand(50, 3, 3), torch.eye(3, dtype=torch.float64).expand(50, 3, 3)).mT
    torch.testing.assert_close(r, torch.linalg.matrix_exp(cross), rtol=0, atol=1e-13)
    back = vector3(r)
    # At the half turn, v and -v are the same rotation.
    torch.testing.assert_close(rotation3(back), r, rtol=0, atol=1e-13)
    if angle < 3:
        torch.testing.assert_close(back, v, rtol=1e-12, atol=1e-15)


@all_groups
def test_group_validate_accepts_members_only(name):
    group = make_group(name)
    eye = torch.eye(group.n)
    with pytest.raises(ValueError, match='NaN or infinity'):
        group.coords(eye * math.nan)
    with pytest.raises(ValueError, match='is singular'):
        group.coords(torch.zeros(2, group.n, group.n))
    mirror = eye.clone()
    mirror[0, 0] = -1
    with pytest.raises(ValueError, match='positive determinant; the matrix at the only index has -1 and reflects'):
        group.coords(mirror)
    with pytest.raises(ValueError, match=rf'\(..., {group.n}, {group.n}\), got \(4, 5\)'):
        group.coords(torch.ones(4, 5))
    with pytest.raises(TypeError, match='floating-point'):
        group.coords(torch.eye(group.n, dtype=torch.int64))
    with pytest.raises(ValueError, match=rf'needs vectors \(..., {group.dim}\)'):
        group.from_coords(torch.zeros(group.dim + 1))


@pytest.mark.parametrize(
    ('name', 'a', 'message'),
    [
        ('sl2', [[2.0, 0.0], [0.0, 1.0]], 'SL2 must have determinant 1, got 2'),
        ('so2', [[2.0, 0.0], [0.0, 0.5]], 'SO2 must have orthogonal rows of equal length'),
        ('sim2', [[1.0, 1.0], [0.0, 1.0]], 'Similarity2 must have orthogonal rows of equal length'),
        ('scale2', [[0.0, -1.0], [1.0, 0.0]], 'PositiveScaling must be a positive multiple of the identity'),
        ('scale2', [[-1.0, 0.0], [0.0, -1.0]], 'PositiveScaling must be a positive multiple of the identity'),
    ],
)
def test_group_validate_rejects_elements_of_larger_groups(name, a, message):
    group = make_group(name)
    with pytest.raises(ValueError, match=message):
        group.validate(torch.tensor([a]))
    make_group('gl2').validate(torch.tensor([a]))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(n=0), 'at least 1, got 0'),
        (dict(n=3, rot='spiral'), 'rot must be one of equidistant, cyclic, uniform, haar'),
        (dict(n=3, rot_bound=0.0), r'rot_bound must lie in \(0, 1\], got 0'),
        (dict(n=3, rot_bound=0.5, rot='cyclic'), 'covers the whole turn'),
        (dict(n=3, spd_var=-1.0), 'spd_var must be positive'),
    ],
)
def test_group_sample_bad_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        GLp2().sample(**arguments)


def test_group_bad_arguments_raise():
    with pytest.raises(ValueError, match="rotations of space are drawn with rot='haar'"):
        make_group('gl3').sample(3, rot='cyclic')
    with pytest.raises(ValueError, match='group must be one of so2, scale2'):
        make_group('e8')
    with pytest.raises(ValueError, match='exists already; pass angle to its class'):
        make_group(SO2(), angle='cos_sin')
    with pytest.raises(ValueError, match='angle must be one of'):
        SO2(angle='degrees')
    with pytest.raises(ValueError, match='n must be 2 or 3'):
        SPD(4)
    with pytest.raises(ValueError, match='alpha must be positive'):
        GLp2(alpha=0.0)
    with pytest.raises(ValueError, match="part must be 'full'"):
        SPD(2, 'half')
    with pytest.raises(ValueError, match=r'tangent vector must be \(..., 3\)'):
        SPD(2).hat(torch.zeros(4))


@pytest.mark.parametrize(
    ('n', 'part', 'dim'),
    [(2, 'full', 3), (2, 'traceless', 2), (2, 'isotropic', 1), (3, 'full', 6), (3, 'traceless', 5)],
)
def test_spd_coordinates_are_orthonormal(n, part, dim):
    spd = SPD(n, part, alpha=2.5)
    assert spd.dim == dim
    x = spd.hat(torch.eye(dim, dtype=torch.float64))
    gram = 2.5 * torch.einsum('aij,bij->ab', x, x)
    torch.testing.assert_close(gram, torch.eye(dim, dtype=torch.float64))
    assert torch.equal(x, x.mT)
    if part == 'traceless':
        assert x.diagonal(dim1=-2, dim2=-1).sum(-1).abs().max() < 1e-15
    torch.testing.assert_close(spd.vee(x), torch.eye(dim, dtype=torch.float64))


def test_unimodular_groups_preserve_area():
    for name in GROUPS:
        group = make_group(name)
        determinant = torch.linalg.det(elements(group))
        assert group.unimodular_on_R2 == bool((determinant - 1).abs().max() < 1e-9)


def test_group_coordinates_of_ill_conditioned_matrices(matrices):
    """Condition number 1e3, and diag(100, 0.01), a shear of 5, half and quarter turns."""
    for group, a in ((GLp2(), matrices), (SL2(), random_matrices(determinant=1.0))):
        back = group.from_coords(group.coords(a))
        scale = a.abs().amax((-2, -1), keepdim=True)
        assert ((back - a).abs() / scale).max() < 1e-11
