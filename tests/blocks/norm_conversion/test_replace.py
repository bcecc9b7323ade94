"""replace_norm on any model, its report, and optimizer settings for dinor1's norms."""

import logging

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from dinor1.blocks.norm_conversion import ConversionReport, replace_norm
from dinor1.blocks.normalization import NORMS, EvoNormS0, L1BatchNorm, L1LayerNorm, PowerNorm, RMSNorm, UnifiedNorm


class Net(nn.Module):
    """A norm of each kind; ``shared`` and ``again`` are the same module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, eps=1e-3), nn.ReLU(), nn.GroupNorm(2, 8))
        self.norm1 = nn.LayerNorm(8, eps=1e-6)
        self.shared = nn.LayerNorm(8)
        self.again = self.shared
        self.joint = nn.LayerNorm((4, 8))
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        return self.again(self.shared(self.norm1(x)).tanh())


def test_replace_norm_default_replaces_layer_norm_by_unified_norm():
    model = Net().double().eval()
    model.norm1.weight.requires_grad_(False)
    new = replace_norm(model)
    assert type(model.norm1) is nn.LayerNorm  # the original does not change
    assert not hasattr(model, 'norm_report')
    # New norms keep settings, parameters and modes.
    assert type(new.norm1) is UnifiedNorm
    assert new.again is new.shared is not new.norm1
    assert new.norm1.eps == 1e-6
    assert torch.equal(new.norm1.weight, model.norm1.weight)
    assert torch.equal(new.norm1.bias, model.norm1.bias)
    assert [new.norm1.weight.requires_grad, new.norm1.bias.requires_grad] == [False, True]
    assert new.norm1.running_var.dtype == torch.float64
    assert not new.norm1.training
    # The report has every norm.
    assert {record.name: record.status for record in new.norm_report} == {
        'conv.1': 'kept',
        'conv.3': 'kept',
        'norm1': 'converted',
        'shared': 'converted',
        'again': 'converted',
        'joint': 'kept',
    }
    assert new.norm_report['joint'].reason == 'normalises 2 axes together'
    assert new.norm_report['conv.1'].reason == 'BatchNorm2d is not in src'
    assert new.norm_report['norm1'].kind == 'LayerNorm'
    assert new(torch.randn(2, 3, 2, 2, dtype=torch.float64)).shape == (2, 4, 8)


def test_replace_norm_inplace_and_name_filter():
    model = Net()
    assert replace_norm(model, cfg=dict(type='RMSNorm', eps=0.5), name_filter=r'^norm\d', inplace=True) is model
    assert type(model.norm1) is RMSNorm
    assert model.norm1.eps == 0.5
    assert model.norm_report['norm1'].reason == 'now RMSNorm, without bias'
    assert model.norm_report['shared'].reason == 'left out by name_filter'
    replace_norm(model, cfg=dict(type='L1LN'), name_filter=lambda name: name == 'again', inplace=True)
    # Two names refer to one module; replacing it under one name separates them.
    assert type(model.again) is L1LayerNorm
    assert type(model.shared) is nn.LayerNorm


def test_replace_norm_keeps_channel_axis():
    model = replace_norm(Net(), src=(nn.BatchNorm2d, nn.GroupNorm), cfg=dict(type='PN', group_num=None))
    assert (type(model.conv[1]), model.conv[1].channel_dim, model.conv[1].eps) == (PowerNorm, 1, 1e-3)
    assert (type(model.conv[3]), model.conv[3].channel_dim) == (PowerNorm, 1)
    assert model(torch.randn(2, 3, 2, 2)).shape == (2, 4, 8)
    model = replace_norm(Net(), src=nn.BatchNorm2d, cfg=dict(type='RMSNorm'))
    assert model.norm_report['conv.1'].reason == 'RMSNorm works on the last axis, this norm on axis 1'
    model = replace_norm(Net(), src=nn.BatchNorm2d, cfg=dict(type='EvoNormS0', groups=4))
    assert type(model.conv[1]) is EvoNormS0
    assert 'includes the activation' in model.norm_report['conv.1'].reason
    # Replace it again by another norm of dinor1; the axis is kept.
    model = replace_norm(model, src=EvoNormS0, cfg=dict(type='L1BN'))
    assert (type(model.conv[1]), model.conv[1].channel_dim) == (L1BatchNorm, 1)


@pytest.mark.parametrize('name', NORMS)
def test_replace_norm_every_norm_and_back(name):
    source = nn.BatchNorm2d if name.startswith('EvoNorm') else nn.LayerNorm
    model = replace_norm(Net(), src=source, cfg=dict(type=name))
    assert model.norm_report.names('converted')
    assert model(torch.randn(2, 3, 2, 2)).isfinite().all()
    back = replace_norm(model, src=NORMS[name], cfg=dict(type='LN'))
    status = 'kept' if source is nn.BatchNorm2d else 'converted'
    assert set(back.norm_report.names(status)) >= set(model.norm_report.names('converted'))


def test_replace_norm_of_single_norm():
    new = replace_norm(nn.LayerNorm(4), cfg=dict(type=nn.LayerNorm, eps=0.1))
    assert (type(new), new.eps) == (nn.LayerNorm, 0.1)
    assert new.norm_report[''].status == 'converted'
    assert '(the model)' in str(new.norm_report)


def test_replace_norm_keeps_subclasses():
    class ChannelsFirst(nn.LayerNorm):
        pass

    model = replace_norm(nn.Sequential(ChannelsFirst(4)))
    assert 'another layout' in model.norm_report['0'].reason
    model = replace_norm(nn.Sequential(ChannelsFirst(4)), src=ChannelsFirst)
    assert model.norm_report['0'].reason == 'the axis of its channels is unknown'


def test_replace_norm_requires_grad_from_config():
    model = replace_norm(nn.Sequential(nn.LayerNorm(4)), cfg=dict(type='UN', requires_grad=False))
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize('cfg', [dict(), dict(type='NoNorm')])
def test_replace_norm_unknown_type_raises(cfg):
    with pytest.raises(ValueError, match=r"cfg needs a type among \['CRMSNorm', .*, or a class; got"):
        replace_norm(Net(), cfg=cfg)


@pytest.mark.parametrize('padded', [False, True])
def test_replace_norm_bypasses_fused_encoder_layer(padded):
    """In evaluation torch would run the layer as one kernel that always computes LayerNorm."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    new = replace_norm(model, cfg=dict(type='L1LN'))
    mask = torch.tensor([[False, False, False], [False, False, True]]) if padded else None
    # Calls are not counted with a forward hook, since that disables the fused path.
    with torch.no_grad():
        y = new(torch.randn(2, 3, 8), src_key_padding_mask=mask)
    # After an L1 norm the mean absolute value is 1; after a LayerNorm the mean square is 1.
    torch.testing.assert_close(y.abs().mean(-1), torch.ones(2, 3), rtol=1e-4, atol=0)
    assert layer.activation_relu_or_gelu  # the original model still uses the fused kernel


def test_conversion_report_text():
    report = ConversionReport('some_converter')
    report.converted('a', nn.LayerNorm(2), 'folded into b')
    report.kept('c', nn.GroupNorm(1, 2), 'no linear layer reads it')
    assert len(report) == 2
    assert report.names('kept') == ['c']
    assert str(report).splitlines() == [
        'some_converter: 1 norms converted, 1 kept (model.norm_report says why)',
        'converted  a  LayerNorm: folded into b',
        'kept       c  GroupNorm: no linear layer reads it',
    ]
    with pytest.raises(KeyError, match="some_converter found no norm 'x'"):
        report['x']
    with pytest.raises(ValueError, match="the norm 'a' is reported twice"):
        report.kept('a', nn.LayerNorm(2), 'again')


def test_replace_norm_logs_kept_norms(caplog):
    with caplog.at_level(logging.INFO, logger='dinor1.blocks.norm_conversion.report'):
        replace_norm(nn.Sequential(nn.LayerNorm(4), nn.BatchNorm1d(4)))
        replace_norm(Net())
    assert [record.levelname for record in caplog.records] == ['INFO', 'WARNING']
    assert '3 norms converted, 3 kept' in caplog.records[1].getMessage()


class Trained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), UnifiedNorm(4), nn.BatchNorm1d(4))
        self.head = nn.ModuleDict(dict(fc=nn.Linear(4, 4), norm=RMSNorm(4, bias=True)))
        self.head['norm'].weight.requires_grad_(False)


def groups_of(constructor, paramwise_cfg):
    """Learning rate and weight decay by parameter name."""
    model = Trained()
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.5),
            constructor=constructor,
            paramwise_cfg=paramwise_cfg,
        ),
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[group['params'][0]]: (group['lr'], group['weight_decay']) for group in wrapper.optimizer.param_groups}


def test_optim_constructor_weight_decay_of_norms():
    rules = dict(norm_decay_mult=0.0, bias_lr_mult=2.0, bias_decay_mult=0.1)
    ours = groups_of('NormAwareOptimWrapperConstructor', rules)
    assert ours['backbone.1.weight'] == ours['backbone.1.bias'] == ours['backbone.2.weight'] == (1.0, 0.0)
    assert ours['head.norm.bias'] == (1.0, 0.0)
    assert ours['head.fc.weight'] == (1.0, 0.5)
    assert ours['head.fc.bias'] == (2.0, 0.05)
    assert 'head.norm.weight' not in ours  # frozen
    # MMEngine's own constructor does not treat them as norms.
    assert groups_of('DefaultOptimWrapperConstructor', rules)['backbone.1.weight'] == (1.0, 0.5)


@pytest.mark.parametrize('rules', [dict(flat_decay_mult=0.0), dict(bias_decay_mult=0.0)])
def test_optim_constructor_decay_rules_apply_as_for_torch_norms(rules):
    ours = groups_of('NormAwareOptimWrapperConstructor', rules)
    assert ours == groups_of('DefaultOptimWrapperConstructor', rules)
    assert ours['backbone.1.bias'] == (1.0, 0.0)


def test_optim_constructor_without_norm_rules():
    groups = groups_of('NormAwareOptimWrapperConstructor', dict(bias_lr_mult=2.0))
    assert groups['backbone.1.weight'] == groups['backbone.1.bias'] == groups['backbone.2.bias'] == (1.0, 0.5)


def test_optim_constructor_custom_keys_override_norm_rules():
    rules = dict(norm_decay_mult=0.0, custom_keys={'backbone': dict(lr_mult=0.1)})
    groups = groups_of('NormAwareOptimWrapperConstructor', rules)
    assert groups['backbone.1.weight'] == groups['backbone.2.weight'] == (0.1, 0.5)
    assert groups['head.norm.bias'] == (1.0, 0.0)


def test_documented_norm_decay_needs_no_constructor():
    groups = groups_of('DefaultOptimWrapperConstructor', dict(custom_keys={'norm': dict(decay_mult=0.0)}))
    assert groups['head.norm.bias'] == (1.0, 0.0)
    assert groups['head.fc.weight'] == (1.0, 0.5)
