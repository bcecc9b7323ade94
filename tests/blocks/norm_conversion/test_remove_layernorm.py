"""LayerNorm removal: swap, measure, switch, fold."""

import copy

import pytest
import torch
from torch import nn

from dinor1.blocks.norm_conversion.folding import ChannelAffine
from dinor1.blocks.norm_conversion.layernorm_stages import has_split_values, removal_stages, stage_of
from dinor1.blocks.norm_conversion.remove_layernorm import (
    collect_ln_std,
    remove_layernorm,
    swap_layernorm_for_fixed_std,
)
from dinor1.blocks.normalization.fixed_std_norm import FixedStdLayerNorm
from tests.blocks.norm_conversion.converter_models import (
    IMAGES,
    MODELS,
    PlainViT,
    deviation,
    gpt2,
    inputs_of,
    noise,
    norm_calls,
    outputs,
    randomised,
    swin,
    vit,
)

# The same products in two orders in float64; the specification allows 1e-10, measured are 1e-15.
EXACT = 1e-10


def fixed_norms(model: nn.Module) -> dict[str, FixedStdLayerNorm]:
    return {name: m for name, m in model.named_modules() if isinstance(m, FixedStdLayerNorm)}


def trained(model: nn.Module, **inputs) -> nn.Module:
    """Swap the norms, and track statistics of one training batch."""
    model = swap_layernorm_for_fixed_std(model)
    model.train()
    outputs(model, **inputs)
    model.eval()
    return model


@pytest.mark.parametrize('name', MODELS)
def test_swap_keeps_outputs_until_switched(name):
    model = randomised(MODELS[name]())
    swapped = swap_layernorm_for_fixed_std(model)
    assert not any(isinstance(module, nn.LayerNorm) for module in swapped.modules())
    assert swapped.norm_report.names('kept') == []
    assert deviation(model, swapped, **inputs_of(name)) < EXACT
    # Parameters and names do not change: checkpoints load, optimizers continue.
    assert [n for n, _ in swapped.named_parameters()] == [n for n, _ in model.named_parameters()]
    inplace = swap_layernorm_for_fixed_std(model, inplace=True)
    assert inplace is model
    assert len(fixed_norms(model)) == len(swapped.norm_report)


@pytest.mark.parametrize('name', MODELS)
def test_remove_layernorm_leaves_no_norm(name):
    model = trained(randomised(MODELS[name]()), **inputs_of(name))
    for norm in fixed_norms(model).values():
        norm.fix()
    folded = remove_layernorm(model)
    assert folded.norm_report.names('kept') == []
    # Until they are folded, attention norms run twice: for queries and keys, and for values.
    assert norm_calls(model, **inputs_of(name)) >= len(folded.norm_report)
    assert norm_calls(folded, **inputs_of(name)) == 0
    assert not any(isinstance(module, ChannelAffine) for module in folded.modules())
    assert deviation(model, folded, **inputs_of(name)) < EXACT
    assert not any(has_split_values(module) for module in folded.modules())


@pytest.mark.parametrize('size', IMAGES)
def test_remove_layernorm_swin_keeps_affine_map_before_padding(size):
    images = noise(2, 3, *IMAGES[size])
    model = trained(randomised(swin()), x=images)
    for norm in fixed_norms(model).values():
        norm.fix()
    folded = remove_layernorm(model)
    assert deviation(model, folded, x=images) < EXACT
    assert norm_calls(folded, x=images) == 0
    assert folded.norm_report['patch_embed.norm'].status == 'converted'
    assert folded.norm_report['stages.0.blocks.0.norm2'].status == 'converted'
    assert 'zeros are padded' in folded.norm_report['stages.0.blocks.0.norm1'].reason
    assert isinstance(folded.stages[0].blocks[0].norm1, ChannelAffine)
    with torch.no_grad():
        model.stages[0].blocks[0].norm1.bias.zero_()
    folded = remove_layernorm(model)
    # Without a bias padded zeros stay zeros, and no norm remains.
    assert isinstance(folded.stages[0].blocks[0].norm1, nn.Identity)
    assert deviation(model, folded, x=images) < EXACT


def test_collect_ln_std_measures_inputs_of_norms():
    model = randomised(vit())
    model.train()
    batches = [dict(pixel_values=noise(n, 3, 8, 8, seed=n)) for n in (2, 3, 4)]
    # Record the inputs of one norm.
    seen = []
    handle = model.vit.layernorm.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    stats = collect_ln_std(model, batches, 2)
    handle.remove()
    # Compare with the mean deviation of its inputs.
    eps = model.vit.layernorm.eps
    expected = (torch.cat(seen).var(1, correction=0) + eps).sqrt().mean()
    assert stats['vit.layernorm'] == pytest.approx(float(expected), rel=1e-12)
    assert len(seen) == 2
    assert len(stats) == 5
    assert model.training
    # Without the first position the result differs.
    patches = collect_ln_std(model, batches, skip_first=True)
    assert len(seen) == 2
    assert patches['vit.layernorm'] != stats['vit.layernorm']
    with pytest.raises(ValueError, match='no batch'):
        collect_ln_std(model, [])


def test_collect_ln_std_accepts_kinds_of_batches():
    model = randomised(PlainViT(layers=1))
    images = noise(2, 3, 16, 16)
    expected = collect_ln_std(model, [dict(images=images)])
    assert collect_ln_std(model, [images]) == collect_ln_std(model, [(images,)]) == expected
    assert collect_ln_std(model, [(images, 'label')], forward=lambda net, batch: net(batch[0])) == expected


def test_remove_layernorm_statistics_fold_plain_layernorm():
    model = randomised(gpt2())
    stats = collect_ln_std(model, [inputs_of('gpt2')])
    folded = remove_layernorm(model, stats)
    assert folded.norm_report.names('kept') == []
    assert norm_calls(folded, **inputs_of('gpt2')) == 0
    swapped = swap_layernorm_for_fixed_std(model)
    for name, norm in fixed_norms(swapped).items():
        norm.std.fill_(stats[name])
        norm.fix()
    assert deviation(swapped, folded, **inputs_of('gpt2')) < EXACT
    assert deviation(model, folded, **inputs_of('gpt2')) > 1e-2
    doubled = remove_layernorm(swapped, {'transformer.ln_f': 2 * stats['transformer.ln_f']})
    bias = model.transformer.ln_f.bias @ model.lm_head.weight.T
    half = (outputs(folded, **inputs_of('gpt2'))[0] - bias) / 2 + bias
    torch.testing.assert_close(outputs(doubled, **inputs_of('gpt2'))[0], half, rtol=0, atol=1e-10)


def test_remove_layernorm_equals_published_formula():
    """``W' = W diag(weight) P / S``, ``b' = b + W bias``."""
    torch.manual_seed(0)
    model = randomised(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4)))
    folded = remove_layernorm(model, {'0': 2.5})
    weight, bias = model[1].weight, model[1].bias
    centring = torch.eye(6, dtype=torch.float64) - 1 / 6
    torch.testing.assert_close(folded[1].weight, weight @ torch.diag(model[0].weight) @ centring / 2.5)
    torch.testing.assert_close(folded[1].bias, bias + weight @ model[0].bias)


def test_remove_layernorm_reports_why_norms_are_kept():
    model = randomised(PlainViT(post=True))
    stats = collect_ln_std(model, [inputs_of('plain')])
    post = remove_layernorm(model, stats)
    assert post.norm_report.names('converted') == ['norm']
    assert 'a sum in blocks.0' in post.norm_report['blocks.0.norm1'].reason
    assert norm_calls(post, **inputs_of('plain')) == 0  # only a centring, a scale and a shift remain
    swapped = swap_layernorm_for_fixed_std(randomised(PlainViT()))
    kept = remove_layernorm(swapped).norm_report
    assert kept.names('converted') == []
    assert 'still a real LayerNorm' in kept['norm'].reason
    assert 'LayerNorm without S' in remove_layernorm(randomised(PlainViT())).norm_report['norm'].reason


def test_remove_layernorm_first_position_with_separate_divisor():
    model = randomised(PlainViT(layers=1))
    model = swap_layernorm_for_fixed_std(model, per_position=17, order=('mlp', 'final'))
    assert model.norm_report['blocks.0.norm1'].reason == 'stage attention is not in the order'
    model.train()
    outputs(model, **inputs_of('plain'))
    model.eval()
    for norm in fixed_norms(model).values():
        norm.fix()
    report = remove_layernorm(model).norm_report
    assert report['blocks.0.norm2'].reason == 'the first position has a separate divisor'
    for norm in fixed_norms(model).values():
        norm.drop_first_position()
    folded = remove_layernorm(model)
    assert folded.norm_report.names('converted') == ['blocks.0.norm2', 'norm']
    assert deviation(model, folded, **inputs_of('plain')) < EXACT


def test_remove_layernorm_bad_statistics_raise():
    model = randomised(vit())
    with pytest.raises(ValueError, match="stats has 'vit.norm', which is not a LayerNorm of the model; it has"):
        remove_layernorm(model, {'vit.norm': 1.0})
    with pytest.raises(ValueError, match='S of vit.layernorm must be one positive number, got 0'):
        remove_layernorm(model, {'vit.layernorm': 0.0})


def test_remove_layernorm_inplace_and_reload():
    model = trained(randomised(vit()), **inputs_of('vit'))
    for norm in fixed_norms(model).values():
        norm.fix()
    expected = copy.deepcopy(model)
    folded = remove_layernorm(model, inplace=True)
    assert folded is model
    other = randomised(vit(), seed=5)
    skeleton = remove_layernorm(other, collect_ln_std(other, [inputs_of('vit')]))
    skeleton.load_state_dict(folded.state_dict())
    assert deviation(expected, skeleton, **inputs_of('vit')) < EXACT


# -----------------------------------------------------------------------------------------------------------
# Two switches of one norm


@pytest.mark.parametrize('name', MODELS)
def test_split_values_have_separate_switch(name):
    """Compare with a model in which values read a second norm with equal weights."""
    model = trained(randomised(MODELS[name]()), **inputs_of(name))
    splits = [name for name, norm in fixed_norms(model).items() if has_split_values(norm)]
    assert splits == removal_stages(model)['attention'] == removal_stages(model)['values']
    assert len(splits) == 2
    both, main, values = (copy.deepcopy(model) for _ in range(3))
    for split in splits:
        both.get_submodule(split).fix()
        main.get_submodule(split).fix(values=False)
        values.get_submodule(split).fix(main=False)
    changes = [deviation(model, other, **inputs_of(name)) for other in (both, main, values)]
    assert min(changes) > 1e-4
    for other in (main, values):
        assert deviation(both, other, **inputs_of(name)) > 1e-4
    # Switches of the copies do not affect the original model.
    assert not any(norm.is_fixed or norm.v_is_fixed for norm in fixed_norms(model).values())
    for split in splits:
        main.get_submodule(split).fix(main=False)
        values.get_submodule(split).fix(values=False)
    assert deviation(both, main, **inputs_of(name)) == deviation(both, values, **inputs_of(name)) == 0


def test_split_values_are_those_of_unswitched_norm():
    """One attention layer in closed form: queries and keys from the switched norm, values from the unswitched one."""
    model = trained(randomised(PlainViT(layers=1)), **inputs_of('plain'))
    block = model.blocks[0]
    block.norm1.fix(values=False)
    x = noise(2, 17, 12)
    q, k, _ = block.attn.qkv(block.norm1.forward(x)).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    real = nn.functional.layer_norm(x, (12,), block.norm1.weight, block.norm1.bias, block.norm1.eps)
    # Call forward directly, without the hooks that replace the values.
    v = block.attn.qkv.forward(real).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)[2]
    expected = block.attn.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    model = trained(randomised(PlainViT(layers=1)), **inputs_of('plain'))
    model.blocks[0].norm1.fix(values=False)
    torch.testing.assert_close(model.blocks[0].attn(model.blocks[0].norm1(x)), expected, rtol=1e-12, atol=1e-12)


def test_split_values_gradients_reach_all_parameters():
    model = trained(randomised(gpt2()), **inputs_of('gpt2'))
    for norm in fixed_norms(model).values():
        norm.fix(values=False)
    model(**inputs_of('gpt2')).logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_split_values_swin_windows_switch_together():
    """Swin partitions tokens into windows between the norm and its reader, as the report says."""
    swapped = swap_layernorm_for_fixed_std(randomised(swin()))
    assert removal_stages(swapped)['values'] == []
    reason = swapped.norm_report['stages.0.blocks.0.norm1'].reason
    assert 'values switch with queries and keys: no projection reads values directly from it' in reason


@pytest.mark.parametrize(
    ('name', 'stage'),
    [
        ('transformer.h.3.ln_1', 'attention'),
        ('transformer.h.3.ln_2', 'mlp'),
        ('transformer.ln_f', 'final'),
        ('vit.layers.0.layernorm_before', 'attention'),
        ('vit.encoder.layer.0.layernorm_after', 'mlp'),
        ('backbone.stages.0.blocks.1.norm2', 'mlp'),
        ('backbone.norm2', 'final'),
        ('norm1', 'final'),
        ('patch_embed.norm', 'final'),
    ],
)
def test_stage_of_norm_names(name, stage):
    assert stage_of(name) == stage


@pytest.mark.parametrize(
    ('order', 'message'),
    [
        ((), 'order must name stages'),
        (('mlp', 'heads'), 'order must name stages'),
        (('mlp', 'mlp'), 'each once'),
        (('values',), 'values must come after attention'),
    ],
)
def test_check_order_bad_orders_raise(order, message):
    with pytest.raises(ValueError, match=message):
        swap_layernorm_for_fixed_std(PlainViT(), order)
