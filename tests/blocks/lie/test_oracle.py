"""Every output array of the reference file, computed from its inputs; tolerances are those of the file's note."""

import pytest
import torch
import torch.nn.functional as F

from dinor1.blocks.lie import (
    SL2,
    SPD2,
    AffineEquivariantNet,
    GLp2,
    GroupConv2d,
    GroupLayerNorm,
    GroupSamples,
    LiftingConv2d,
    NetworkSamples,
    SirenKernel,
    encode_angle,
    polar2,
    window,
)
from dinor1.blocks.lie.rotations import angle2, rotation2

pytestmark = pytest.mark.shared

FLOAT32, POLAR, TANGENT = 2e-5, 1e-9, 1e-7
GROUPS = {'gl': GLp2, 'sl': SL2}
both = pytest.mark.parametrize('name', GROUPS)


def near(got, expected, tolerance):
    assert got.shape == expected.shape
    deviation = (got.double() - expected.double()).abs().max()
    assert deviation <= tolerance * expected.abs().max(), f'{deviation / expected.abs().max():.1e} > {tolerance}'


@pytest.mark.parametrize(('name', 'traceless'), [('spd', False), ('sspd', True)])
def test_spd_functions_equal_oracle(oracle, name, traceless):
    spd = SPD2(traceless)
    x = spd.hat(oracle[f'{name}_vec'])
    near(x, oracle[f'{name}_hat'], TANGENT)
    s = spd.exp(x)
    near(s, oracle[f'{name}_exp'], TANGENT)
    near(spd.sqrt(s), oracle[f'{name}_sqrt'], TANGENT)
    near(spd.vee(x), oracle[f'{name}_vee'], TANGENT)
    if not traceless:
        near(spd.invsqrt(s), oracle['spd_invsqrt'], TANGENT)
        near(spd.log(s), oracle['spd_log'], TANGENT)


def test_so2_equals_oracle(oracle):
    rotation = rotation2(oracle['so2_theta'])
    near(rotation, oracle['so2_exp'], FLOAT32)
    near(encode_angle(angle2(rotation), 'zero_two_pi')[..., 0], oracle['so2_angle_0_2pi'], FLOAT32)


@both
def test_polar_and_coordinates_equal_oracle(oracle, name):
    a = oracle[f'{name}_A']
    log_p, rotation, _ = polar2(a)
    near(log_p, oracle[f'{name}_logP'], POLAR)
    near(rotation, oracle[f'{name}_R'], POLAR)
    near(GROUPS[name]().coords(a), oracle[f'{name}_xi'], FLOAT32)
    if name == 'gl':
        spd = SPD2()
        near(spd.exp(log_p), oracle['gl_P'], POLAR)
        near(spd.exp(2 * log_p), oracle['gl_S'], POLAR)


@both
def test_samples_equal_oracle_draws(oracle, name):
    """The published draw in this package's chart: half of the tangent draw, since S = P^2."""
    group, theta = GROUPS[name](), oracle[f'{name}_angle'][:, None]
    draw = oracle[f'{name}_draw'] / 2
    c = torch.cat([draw, theta], 1) if name == 'gl' else torch.cat([draw[:, 1:], theta, draw[:, :1]], 1)
    g = group.from_coords(c)
    near(g, oracle[f'{name}_g'], FLOAT32)
    near(torch.linalg.inv(g), oracle[f'{name}_ginv'], FLOAT32)


@pytest.mark.parametrize('k', [3, 5, 7])
def test_window_equals_oracle(oracle, k):
    near(window(k).permute(2, 0, 1), oracle[f'grid_k{k}_xy'], FLOAT32)


def load_siren(net: SirenKernel, oracle, prefix):
    parts = {'final': 'f', 'sines.0': '0', 'sines.1': '1', 'sines.2': '2'}
    state = {}
    for ours, theirs in parts.items():
        state[f'{ours}.weight'] = oracle[f'{prefix}_W{theirs}']
        state[f'{ours}.bias'] = oracle[f'{prefix}_b{theirs}']
    net.load_state_dict(state)


def lifting(oracle, name):
    layer = LiftingConv2d(GROUPS[name](), 1, 2, 5, hidden=8)
    load_siren(layer.net, oracle, f'{name}_lift')
    return layer


@both
def test_lifting_equals_oracle(oracle, name):
    layer = lifting(oracle, name)
    g_inv = oracle[f'{name}_layer_ginv']
    near(layer.kernel(g_inv), oracle[f'{name}_lift_kernel'], FLOAT32)
    out = layer(oracle[f'{name}_x'], g_inv)
    near(out, oracle[f'{name}_lift_out'], FLOAT32)
    near(GroupLayerNorm()(out), oracle[f'{name}_ln_out'], FLOAT32)


@both
@pytest.mark.parametrize('where', ['same', 'next'])
@pytest.mark.parametrize('axis', ['measure_in', 'ascoded'])
def test_group_conv_equals_oracle(oracle, name, where, axis):
    g = oracle[f'{name}_layer_g']
    g_out_inv = oracle[f'{name}_layer_ginv' if where == 'same' else f'{name}_layer_g_next_inv']
    layer = GroupConv2d(GROUPS[name](), 2, 3, 5, hidden=8, compat_det_axis=axis == 'ascoded')
    load_siren(layer.net, oracle, f'{name}_conv')
    near(layer.kernel(g, g_out_inv), oracle[f'{name}_conv_kernel_raw_{where}'], FLOAT32)
    out = layer(oracle[f'{name}_lift_out'], g, g_out_inv)
    near(out, oracle[f'{name}_conv_out_{axis}_{where}'], FLOAT32)


def test_oracle_axes_of_determinant_differ(oracle):
    """Otherwise the test above could not distinguish them."""
    right, wrong = oracle['gl_conv_out_measure_in_same'], oracle['gl_conv_out_ascoded_same']
    assert (right - wrong).abs().max() > 0.01 * right.abs().max()


def test_network_equals_oracle(oracle):
    net = AffineEquivariantNet('sl2', width=3, n_samples=3, kernel=dict(hidden=6)).eval()
    convs = dict(stem=net.stem, block1=net.blocks[0].conv1, block2=net.blocks[0].conv2, final=net.last)
    for name, conv in convs.items():
        load_siren(conv.net, oracle, f'net_{name}')
    head = dict(zip(('0.weight', '1.weight', '1.bias', '4.weight', '4.bias'),
                    ('fc1_W', 'fc_ln_w', 'fc_ln_b', 'fc2_W', 'fc2_b'), strict=True))  # fmt: skip
    net.head.load_state_dict({ours: oracle[f'net_{theirs}'] for ours, theirs in head.items()})
    first, last = (GroupSamples(oracle[f'net_g{i}'], oracle[f'net_g{i}inv'], torch.ones(3)) for i in (1, 3))
    samples, x = NetworkSamples(first, last), oracle['net_x']
    with torch.no_grad():
        near(F.gelu(net.stem_norm(net.stem(x, first.g_inv))), oracle['net_stem_out'], FLOAT32)
        near(net.features(x, samples), oracle['net_features'], FLOAT32)
        near(net.pooled(x, samples), oracle['net_pooled'], FLOAT32)
        near(net(x, samples), oracle['net_logits'], FLOAT32)
