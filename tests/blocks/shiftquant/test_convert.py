"""quantize_model: what is replaced and kept, shared parameters, and the count of multiply-accumulates."""

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dinor1.blocks.shiftquant import (
    DEFAULT_SKIP,
    IntConv2d,
    IntegerRecipe,
    IntLinear,
    L1BatchNorm2d,
    L1LayerNorm,
    count_macs,
    noise_sources,
    quantize_model,
    set_enabled,
)
from dinor1.utils.errors import InputError


class Wrapper(nn.Linear):
    """A subclass with the same computation."""


class Net(nn.Module):
    """One layer of every kind that matters, one of them used twice."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential()
        self.backbone.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.backbone.bn = nn.BatchNorm2d(4)
        self.backbone.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.backbone.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.frozen = nn.BatchNorm2d(6).requires_grad_(False)
        self.norm = nn.LayerNorm(6)
        self.plane = nn.LayerNorm((3, 6))
        self.shared = nn.ModuleList([nn.Linear(6, 6)] * 2)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.wrapped = Wrapper(6, 6)
        self.up = nn.ConvTranspose2d(6, 2, 2)
        self.cls_head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.frozen(self.backbone(x)).flatten(2).transpose(1, 2)
        x = self.shared[1](self.shared[0](self.norm(x)))
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.cls_head(self.wrapped(x).mean(1))


def test_quantize_model_without_layers():
    report = quantize_model(nn.Sequential(nn.ReLU()))
    assert list(report) == []
    assert report.summary() == '0 layers in integers, 0 kept, bits (4, 4, 4)'


def test_quantize_model_replaces_and_reports():
    model = Net()
    report = quantize_model(model, norm='l1')
    assert report.skip == DEFAULT_SKIP
    # Kept layers have a reason.
    kept = {record.name: record.reason for record in report if record.status == 'kept'}
    assert kept == {
        'backbone.conv1': 'in skip',
        'backbone.depthwise': 'depthwise',
        'frozen': 'frozen',
        'plane': 'normalises 2 axes together',
        'attention': "torch's attention multiplies with its weights itself",
        'attention.out_proj': 'a subclass, which may compute something different',
        'wrapped': 'a subclass, which may compute something different',
        'up': 'no integer counterpart',
        'cls_head': 'in skip',
    }
    # All other layers are replaced.
    assert report.names('replaced') == ['backbone.bn', 'backbone.conv2', 'norm', 'shared.0', 'shared.1']
    kinds = [type(model.get_submodule(name)) for name in report.names('replaced')]
    assert kinds == [L1BatchNorm2d, IntConv2d, L1LayerNorm, IntLinear, IntLinear]
    assert model.shared[0] is model.shared[1]
    assert 'kept      frozen  BatchNorm2d: frozen' in str(report)


def named(**layers):
    return nn.Sequential(OrderedDict(layers))


@pytest.mark.parametrize(
    ('layers', 'ends'),
    [
        # A classifier with torchvision's names.
        (dict(conv1=nn.Conv2d(3, 4, 3), layer1=nn.Conv2d(4, 4, 3), pool=nn.Flatten(), fc=nn.Linear(4, 2)), 'conv1 fc'),
        # A head with a known name, a patch embedding with an unknown one.
        (dict(conv_proj=nn.Conv2d(3, 4, 2), mlp=nn.Linear(4, 4), heads=named(last=nn.Linear(4, 2))), 'conv_proj'),
        # The input has features: the first layer is not special.
        (dict(first=nn.Conv2d(64, 4, 3), second=nn.Conv2d(4, 4, 3), last=nn.Conv2d(4, 2, 1)), 'last'),
        (dict(first=nn.Linear(3, 4), second=nn.Linear(4, 4), last=nn.Linear(4, 2)), 'last'),
        # Known names.
        (dict(backbone=named(conv1=nn.Conv2d(3, 4, 3)), bbox_head=nn.Linear(4, 2), neck=nn.Linear(4, 4)), ''),
    ],
)
def test_quantize_model_finds_first_and_last_layer(layers, ends):
    model = named(**layers)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    report = quantize_model(model)
    assert report.skip == (*DEFAULT_SKIP, *ends.split())
    by_name = [name for name in names if 'head' in name or 'backbone' in name]
    assert report.names('kept') == [name for name in names if name in ends.split() or name in by_name]
    # A second conversion finds the same first and last layer.
    assert quantize_model(model).skip == report.skip
    assert quantize_model(named(a=nn.Conv2d(3, 4, 3), b=nn.Linear(4, 2)), skip=()).names('kept') == []


def test_quantize_model_keeps_parameters_and_state_dict():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parameters, keys = dict(model.named_parameters()), list(model.state_dict())
    state = copy.deepcopy(model.state_dict())
    report = quantize_model(model, skip=(), aliases=(Wrapper,))
    assert 'wrapped' in report.names('replaced')
    assert 'cls_head' in report.names('replaced')
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert list(model.state_dict()) == keys
    model.load_state_dict(state)
    model(torch.randn(2, 3, 6, 6)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.backbone.conv2.weight, state['backbone.conv2.weight'])


def test_quantize_model_keeps_hooks_and_mode_and_is_idempotent():
    model = Net().eval()
    calls = []
    model.backbone.conv2.register_forward_hook(lambda *_: calls.append(1))
    quantize_model(model)
    model(torch.randn(1, 3, 6, 6))
    assert calls == [1]
    assert not model.backbone.conv2.training
    again = quantize_model(model)
    assert again.names('replaced') == []
    assert {r.reason for r in again if r.name == 'backbone.conv2'} == {'already an integer layer'}


def test_set_enabled_false_equals_original_model():
    model = Net().eval()
    x = torch.randn(2, 3, 6, 6)
    expected = model(x)
    quantize_model(model)
    assert not torch.equal(model(x), expected)
    set_enabled(model, False)
    assert torch.equal(model(x), expected)


def test_quantize_model_bypasses_fused_encoder_layer():
    """In evaluation torch would compute the whole layer from the weights without calling an integer layer."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    quantize_model(model, skip=())
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        fused = model(x)
    torch.testing.assert_close(fused, model.train()(x), rtol=1e-5, atol=1e-5)


def test_quantize_model_error_falls_with_bits():
    torch.manual_seed(1)
    model = Net().eval()
    x = torch.randn(4, 3, 6, 6)
    expected, errors = model(x), []
    for bits in (8, 6, 4):
        changed = copy.deepcopy(model)
        quantize_model(changed, IntegerRecipe((bits,) * 3), skip=())
        errors.append(((changed(x) - expected).norm() / expected.norm()).item())
    assert errors[0] < 0.03
    assert errors[0] < errors[1] < errors[2]


def test_quantize_model_l1_norm_keeps_trained_batch_norm():
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=1.0))
    x = torch.randn(64, 3, 20, 20) * 3 + 1
    model(x)
    expected = model.eval()(x)
    quantize_model(model, IntegerRecipe((8, 8, 8)), skip=(), norm='l1')
    # Two roundings to 8 bits of a range of about 5 standard deviations.
    assert (model(x) - expected).abs().max() < 0.1


def test_quantize_model_noise_differs_between_layers_and_seeds():
    def draws(seed):
        model = Net()
        quantize_model(model, seed=seed, skip=())
        return [torch.rand(4, generator=s.next_generator('cpu')).tolist() for s in noise_sources(model).values()]

    first, again, other = draws(0), draws(0), draws(1)
    assert first == again
    assert len({str(d) for d in first + other}) == 2 * len(first)


def test_quantize_model_skip_names_and_patterns():
    model = Net()
    report = quantize_model(model, skip=['backbone', r're:shared\.\d'])
    assert report.names('replaced') == ['cls_head']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(skip=['backbone.conv9']), r"'backbone.conv9' matches no module of Net"),
        (dict(skip=['re:(']), 'is not a regular expression'),
        (dict(skip=['re:conv1']), "matches no module.*after 're:'"),
        (dict(norm='l2'), "norm must be None or 'l1'"),
        (dict(norm='l1', recipe=IntegerRecipe((4, 32, 4))), 'bits of activations'),
    ],
)
def test_quantize_model_bad_settings_raise(arguments, message):
    with pytest.raises(InputError, match=message):
        quantize_model(Net(), **arguments)


def test_quantize_model_single_layer_raises():
    with pytest.raises(InputError, match='single Linear'):
        quantize_model(nn.Linear(2, 2))


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.linear = nn.Linear(4, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        x = self.linear(self.conv(x).flatten(2).transpose(1, 2))
        x = F.scaled_dot_product_attention(x, x, x)
        return self.out(x)


# Closed-form counts for 6 x 6 pixels.
CONV, LINEAR, ATTENTION, OUT = 36 * 4 * 2 * 9, 36 * 4 * 5, 2 * 36 * 36 * 5, 36 * 5 * 3


@pytest.mark.parametrize(('backend', 'mode'), [('sim', 'auto'), ('sim', 'masked'), ('int8', 'auto')])
def test_count_macs_equals_closed_form(backend, mode):
    model = Counted()
    before = count_macs(model, torch.zeros(1, 4, 6, 6))
    assert (before.integer, before.floating, before.share) == ({}, CONV + LINEAR + ATTENTION + OUT, 0)
    quantize_model(model, IntegerRecipe(backend=backend, mode=mode), skip=['out'])
    macs = count_macs(model, torch.zeros(1, 4, 6, 6))
    assert (macs.integer, macs.floating) == (dict(conv=CONV, linear=LINEAR), ATTENTION + OUT)
    assert macs.share == macs.training_share == (CONV + LINEAR) / (CONV + LINEAR + ATTENTION + OUT)
    assert model.training
    quantize_model(other := Counted(), IntegerRecipe((4, 4, 32), backend=backend), skip=['out'])
    assert count_macs(other, torch.zeros(1, 4, 6, 6)).training_share == pytest.approx(macs.share / 3)
    set_enabled(model, False)
    assert count_macs(model, torch.zeros(1, 4, 6, 6)).share == 0


def test_count_macs_sampling_counts_four_per_number():
    class Sampler(nn.Module):
        def forward(self, x):
            return F.grid_sample(x, torch.zeros(1, 5, 7, 2), align_corners=False)

    assert count_macs(Sampler(), torch.zeros(1, 3, 4, 4)).floating == 4 * 3 * 5 * 7


def test_quantize_model_part_of_model_has_no_first_and_last_layer():
    """All layers of an FFN are converted, since its last layer is not a head."""
    report = quantize_model(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)))
    assert report.skip == DEFAULT_SKIP
    assert report.names('replaced') == ['0', '2']
