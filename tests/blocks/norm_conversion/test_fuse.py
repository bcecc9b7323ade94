"""Norms that are constant at inference are folded into neighbouring layers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dinor1.blocks.norm_conversion import replace_norm
from dinor1.blocks.norm_conversion.folding import ChannelAffine
from dinor1.blocks.norm_conversion.fuse import fuse_unified_norm
from dinor1.blocks.normalization import L1BatchNorm, PowerNorm, UnifiedNorm
from tests.blocks.norm_conversion.converter_models import (
    IMAGES,
    MODELS,
    PlainViT,
    deviation,
    gpt2,
    inputs_of,
    noise,
    norm_calls,
    randomised,
    swin,
    vit,
)

# The same products in two orders in float64; the specification allows 1e-10, measured are 1e-15.
EXACT = 1e-10
UN, PN = dict(type='UN'), dict(type='PN', group_num=None)


def normalised(model: nn.Module, cfg: dict) -> nn.Module:
    return randomised(replace_norm(model, cfg=cfg))


@pytest.mark.parametrize('cfg', [UN, PN], ids=lambda cfg: cfg['type'])
@pytest.mark.parametrize('name', MODELS)
def test_fuse_removes_all_norms_with_equal_outputs(name, cfg):
    model = normalised(MODELS[name](), cfg)
    before = copy.deepcopy(model.state_dict())
    fused = fuse_unified_norm(model)
    assert fused.norm_report.names('kept') == []
    assert norm_calls(model, **inputs_of(name)) == len(fused.norm_report) > 0
    assert norm_calls(fused, **inputs_of(name)) == 0
    assert not any(isinstance(module, (UnifiedNorm, PowerNorm, ChannelAffine)) for module in fused.modules())
    assert deviation(model, fused, **inputs_of(name)) < EXACT
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


@pytest.mark.shared
def test_fuse_weights_equal_reference(oracle):
    """The reference folds one layer after the norm; the results must be equal."""
    case = 'un_plain'
    norm = UnifiedNorm(8).double()
    norm.load_state_dict(oracle.under(f'{case}/init') | _last_buffers(oracle, case))
    linear = nn.Linear(8, 4).double()
    linear.load_state_dict(dict(weight=oracle[f'{case}/fold/lin_weight'], bias=oracle[f'{case}/fold/lin_bias']))
    model = nn.Sequential(norm, linear).eval()
    x = oracle[f'{case}/eval/x']
    torch.testing.assert_close(model(x), oracle[f'{case}/fold/lin_out'], rtol=1e-12, atol=1e-12)
    fused = fuse_unified_norm(model, example_inputs=x)
    torch.testing.assert_close(fused[1].weight, oracle[f'{case}/fold/folded_weight'], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fused[1].bias, oracle[f'{case}/fold/folded_bias'], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fused(x), oracle[f'{case}/fold/lin_out'], rtol=1e-12, atol=1e-12)


def _last_buffers(oracle, case: str) -> dict:
    last = oracle.under(f'{case}/step{oracle.cfg(case)["steps"] - 1}')
    names = ('running_var', 'ema_gz', 'buffer_x2', 'buffer_gz', 'iters', 'skip_counter')
    return {name: last[name] for name in names}


@pytest.mark.parametrize('size', IMAGES)
def test_fuse_swin_keeps_shift_before_padding(size):
    model = normalised(swin(), UN)
    fused = fuse_unified_norm(model)
    assert deviation(model, fused, x=noise(2, 3, *IMAGES[size])) < EXACT
    norm1 = fused.stages[0].blocks[0].norm1
    assert isinstance(norm1, ChannelAffine)
    assert norm1.scale is None
    assert norm1.shift is not None
    assert isinstance(fused.stages[0].blocks[0].norm2, nn.Identity)
    # This norm's only reader is the stream, its only source a convolution.
    assert 'patch_embed.projection before' in fused.norm_report['patch_embed.norm'].reason
    assert fused.norm_report.names('kept') == ['norm0', 'norm1']
    assert "the model's output" in fused.norm_report['norm0'].reason


@pytest.mark.parametrize('size', IMAGES)
def test_fuse_swin_shift_in_projection_would_change_outputs(size):
    """With the shift in the projection, padded tokens change, and with them all tokens of a window."""
    model = normalised(swin(), UN)
    naive = fuse_unified_norm(model)
    for stage in naive.stages:
        for block in stage.blocks:
            qkv, shift = block.attn.w_msa.qkv, block.norm1.shift
            qkv.bias.data += qkv.weight.data @ shift
            block.norm1 = nn.Identity()
    error = deviation(model, naive, x=noise(2, 3, *IMAGES[size]))
    assert error > 1e-2 if size == 'padded' else error < EXACT


def test_fuse_keeps_norm_with_zero_scale_before_padding():
    """The shift cannot be moved before a scale of zero."""
    model = normalised(swin(), UN)
    with torch.no_grad():
        model.stages[0].blocks[0].norm1.weight[3] = 0
    fused = fuse_unified_norm(model)
    assert deviation(model, fused, x=noise(2, 3, *IMAGES['padded'])) < EXACT
    assert 'zeros are padded' in fused.norm_report['stages.0.blocks.0.norm1'].reason


@pytest.mark.parametrize('swap', ['UN', 'L1BN'])
@pytest.mark.parametrize('padding', [0, 1, 'same', 'circular'])
def test_fuse_convolutions(swap, padding):
    norm = (UnifiedNorm if swap == 'UN' else L1BatchNorm)(4, channel_dim=1)
    options = dict(padding=1, padding_mode='circular') if padding == 'circular' else dict(padding=padding)
    body = nn.Sequential(nn.ReLU(), norm, nn.Conv2d(4, 6, 3, **options), nn.ReLU())
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), body))
    fused = fuse_unified_norm(model, example_inputs=noise(2, 3, 9, 9))
    assert deviation(model, fused, input=noise(2, 3, 7, 8)) < EXACT
    left = [module for module in fused.modules() if isinstance(module, ChannelAffine)]
    assert len(left) == (padding in (1, 'same'))


def test_fuse_into_preceding_convolution():
    norm = UnifiedNorm(4, channel_dim=1)
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), norm, nn.ReLU(), nn.Conv2d(4, 2, 1)))
    fused = fuse_unified_norm(model)
    assert isinstance(fused[1], nn.Identity)
    assert fused[0].bias is not None
    assert deviation(model, fused, input=noise(2, 3, 7, 8)) < EXACT


def test_fuse_norm_that_feeds_stream_becomes_scale_and_shift():
    model = normalised(PlainViT(post=True), UN)
    fused = fuse_unified_norm(model)
    assert deviation(model, fused, **inputs_of('plain')) < EXACT
    assert fused.norm_report.names('converted') == ['norm']
    assert 'a sum in blocks.0' in fused.norm_report['blocks.0.norm1'].reason
    assert isinstance(fused.blocks[0].norm1, ChannelAffine)


def test_fuse_keeps_group_scaling():
    model = normalised(PlainViT(), dict(type='PN', group_num=3))
    fused = fuse_unified_norm(model)
    assert fused.norm_report.names('converted') == []
    assert fused.norm_report['blocks.0.norm1'].reason == 'group scaling depends on the token'
    assert deviation(model, fused, **inputs_of('plain')) == 0


def test_fuse_reports_and_keeps_other_norms():
    model = randomised(replace_norm(PlainViT(), cfg=UN, name_filter='norm1'))
    fused = fuse_unified_norm(model)
    assert fused.norm_report.names('converted') == ['blocks.0.norm1', 'blocks.1.norm1']
    assert fused.norm_report.names('kept') == ['blocks.0.norm2', 'blocks.1.norm2', 'norm']
    assert deviation(model, fused, **inputs_of('plain')) < EXACT


def test_fuse_keeps_norms_with_shared_reader():
    class TwoNorms(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = UnifiedNorm(4), UnifiedNorm(4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.a(x)) + self.head(self.b(x.sin()))

    model = randomised(TwoNorms())
    fused = fuse_unified_norm(model, example_inputs=noise(2, 5, 4))
    assert deviation(model, fused, x=noise(3, 5, 4)) < EXACT
    assert fused.norm_report['a'].reason.endswith('its reader head also reads something else')


def test_fuse_cross_attention_changes_query_rows_only():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attn = UnifiedNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x, memory):
            return self.attn(self.norm(x), memory, memory, need_weights=False)[0]

    model = randomised(Cross())
    fused = fuse_unified_norm(model, example_inputs=(noise(2, 5, 8), noise(2, 6, 8, seed=3)))
    assert fused.norm_report.names('converted') == ['norm']
    assert deviation(model, fused, x=noise(3, 4, 8), memory=noise(3, 7, 8, seed=4)) < EXACT
    # Only the query rows may change.
    assert torch.equal(fused.attn.in_proj_weight[8:], model.attn.in_proj_weight[8:])


def test_fuse_unties_embeddings():
    model = normalised(gpt2(), UN)
    assert model.lm_head.weight is model.transformer.wte.weight
    fused = fuse_unified_norm(model)
    assert torch.equal(fused.transformer.wte.weight, model.transformer.wte.weight)
    assert not torch.equal(fused.lm_head.weight, fused.transformer.wte.weight)
    assert fused.config.tie_word_embeddings is False
    assert model.config.tie_word_embeddings is True


class SneakyModel(nn.Module):
    """Uses the norm or its reader in ways that tracing does not see."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.norm, self.head = UnifiedNorm(4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.norm(x)
        if self.how == 'weight':
            return self.head(y) + F.linear(x, self.head.weight)
        if self.how == 'attribute':
            return self.head(y) / self.norm.eps
        # Copies the numbers with a function that PyTorch does not report.
        return self.head(y) + torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(y.detach()))


def test_fuse_keeps_norm_if_weight_is_read_directly():
    model = randomised(SneakyModel('weight'))
    fused = fuse_unified_norm(model, example_inputs=noise(2, 5, 4))
    assert 'the weight of its reader head is also read by linear' in fused.norm_report['norm'].reason
    assert deviation(model, fused, x=noise(3, 5, 4)) < EXACT


@pytest.mark.parametrize(
    ('how', 'message'),
    [('copy', r'converted SneakyModel would differ .* it was not converted'), ('attribute', 'does not run')],
)
def test_fuse_check_rejects_what_tracing_misses(how, message):
    model = randomised(SneakyModel(how))
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        fuse_unified_norm(model, example_inputs=noise(2, 5, 4), inplace=True)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_fuse_inplace_and_reload():
    model, other = normalised(vit(), UN), randomised(replace_norm(vit(), cfg=UN), seed=5)
    expected = copy.deepcopy(model)
    fused = fuse_unified_norm(model, inplace=True)
    assert fused is model
    skeleton = fuse_unified_norm(other)
    assert deviation(expected, skeleton, **inputs_of('vit')) > 1e-3
    skeleton.load_state_dict(fused.state_dict())
    assert deviation(expected, skeleton, **inputs_of('vit')) < EXACT


def test_fuse_folds_half_precision_weights_in_double():
    """Folding in bfloat16 would round every product; the result must be the rounded exact weights."""
    model = normalised(vit(), UN)
    exact = fuse_unified_norm(model)
    model = model.to(torch.bfloat16)
    fused = fuse_unified_norm(model)
    half = dict(exact.to(torch.bfloat16).named_parameters())
    for name, parameter in fused.named_parameters():
        # Inputs and result of the fold are rounded once each, by at most one unit of 2^-8.
        torch.testing.assert_close(parameter, half[name], rtol=2**-6, atol=2**-6)
    assert outputs_are_finite(fused)


def outputs_are_finite(model: nn.Module) -> bool:
    with torch.no_grad():
        return bool(model(noise(2, 3, 8, 8).bfloat16()).logits.isfinite().all())


def test_fuse_bad_example_inputs_raise():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = UnifiedNorm(4)

        def forward(self, a, b):
            return self.norm(a + b)

    with pytest.raises(ValueError, match='cannot guess an input of Odd; pass example_inputs'):
        fuse_unified_norm(Odd())
    with pytest.raises(ValueError, match='Odd does not run on the example inputs'):
        fuse_unified_norm(Odd(), example_inputs=(noise(2, 5, 4), noise(2, 7, 4)))
