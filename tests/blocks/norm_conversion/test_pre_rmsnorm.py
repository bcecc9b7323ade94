"""Pre-LN to Pre-RMSNorm and Pre-CRMSNorm: other weights, equal outputs."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dinor1.blocks.norm_conversion.pre_crmsnorm import DropChannel, to_pre_crmsnorm
from dinor1.blocks.norm_conversion.pre_rmsnorm import bake_centring, to_pre_rmsnorm
from dinor1.blocks.norm_conversion.residual_streams import Branch, Centre, Exit, ResidualStream
from dinor1.blocks.normalization import CRMSNorm, RMSNorm
from tests.blocks.norm_conversion.converter_models import (
    IMAGES,
    MODELS,
    PlainViT,
    deviation,
    gpt2,
    inputs_of,
    noise,
    num_parameters,
    outputs,
    randomised,
    swin,
    vit,
)

# The same products in two orders in float64; the specification allows 1e-10, measured are 1e-15.
EXACT = 1e-10


class OracleViT(nn.Module):
    """The model of the public demonstration, whose norms have no affine part."""

    def __init__(self, dim: int, depth: int, heads: int, hidden: int, classes: int, patch: int, tokens: int) -> None:
        super().__init__()
        self.heads = heads
        self.patch_linear = nn.Linear(patch, dim)
        self.pos_embedding = nn.Parameter(torch.zeros(1, tokens, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, elementwise_affine=False) for _ in range(2 * depth + 1))
        self.att_in_linear = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(depth))
        self.att_out_linear = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth))
        self.mlp_in_linear = nn.ModuleList(nn.Linear(dim, hidden) for _ in range(depth))
        self.mlp_out_linear = nn.ModuleList(nn.Linear(hidden, dim) for _ in range(depth))
        self.cls_head_linear = nn.Linear(dim, classes)

    def forward(self, x):
        x = self.patch_linear(x) + self.pos_embedding
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for i in range(len(self.att_in_linear)):
            qkv = self.att_in_linear[i](self.norms[2 * i](x)).unflatten(-1, (3, self.heads, -1))
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            x = x + self.att_out_linear[i](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            x = x + self.mlp_out_linear[i](F.gelu(self.mlp_in_linear[i](self.norms[2 * i + 1](x))))
        return self.cls_head_linear(self.norms[-1](x)[:, 0])


def oracle_weights(oracle, form: str) -> dict[str, torch.Tensor]:
    """Split the tensors into one per layer, with the names of :class:`OracleViT`."""
    weights = {}
    for key, value in oracle.under(f'convert_vit/{form}').items():
        name, _, kind = key.rpartition('_')
        if key in ('x', 'out'):
            continue
        if kind not in ('weight', 'bias'):
            weights[key] = value
        elif name.startswith(('att', 'mlp')):
            weights |= {f'{name}.{i}.{kind}': layer for i, layer in enumerate(value)}
        else:
            weights[f'{name}.{kind}'] = value
    return weights


@pytest.mark.shared
@pytest.mark.parametrize(
    ('convert', 'form', 'kind'), [(to_pre_rmsnorm, 'pre_rms', RMSNorm), (to_pre_crmsnorm, 'pre_crms', CRMSNorm)]
)
def test_conversion_weights_equal_public_demonstration(oracle, convert, form, kind):
    cfg = oracle.cfg('convert_vit')
    tokens = (cfg['image_size'] // cfg['patch_size']) ** 2
    sizes = [cfg[key] for key in ('dim', 'depth', 'heads', 'mlp_dim', 'num_classes')]
    model = OracleViT(*sizes, patch=3 * cfg['patch_size'] ** 2, tokens=tokens).double()
    before = oracle_weights(oracle, 'pre_ln')
    model.load_state_dict(before)
    x = oracle['convert_vit/pre_ln/x']
    torch.testing.assert_close(model(x), oracle['convert_vit/pre_ln/out'], rtol=1e-12, atol=1e-12)
    converted = convert(model)
    assert all(isinstance(norm, kind) for norm in converted.norms)
    torch.testing.assert_close(converted(x), oracle[f'convert_vit/{form}/out'], rtol=1e-12, atol=1e-12)
    expected = before | oracle_weights(oracle, form)
    assert set(dict(converted.named_parameters())) == set(expected)
    for name, parameter in converted.named_parameters():
        torch.testing.assert_close(parameter.data, expected[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize('options', [{}, dict(fold_affine=True), dict(trainable=True)], ids=['', 'fold', 'trainable'])
@pytest.mark.parametrize('name', MODELS)
def test_pre_rmsnorm_outputs_equal_layer_norm(name, options):
    model = randomised(MODELS[name]())
    before = copy.deepcopy(model.state_dict())
    converted = to_pre_rmsnorm(model, **options)
    assert converted.norm_report.names('kept') == []
    assert not any(isinstance(module, nn.LayerNorm) for module in converted.modules())
    assert deviation(model, converted, **inputs_of(name)) < EXACT
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert _largest_mean_before_norms(model, **inputs_of(name)) > 1e-2
    assert _largest_mean_before_norms(converted, **inputs_of(name)) < 1e-13


def _largest_mean_before_norms(model: nn.Module, **inputs) -> float:
    means = []
    norms = [module for module in model.modules() if isinstance(module, (nn.LayerNorm, RMSNorm))]
    for norm in norms:
        norm.register_forward_pre_hook(lambda _, args: means.append(float(args[0].mean(-1).abs().max())))
    outputs(model, **inputs)
    assert len(means) == len(norms)
    return max(means)


@pytest.mark.parametrize('name', MODELS)
def test_pre_crmsnorm_outputs_equal_layer_norm(name):
    model = randomised(MODELS[name]())
    converted = to_pre_crmsnorm(model)
    assert converted.norm_report.names('kept') == []
    assert sum(isinstance(module, CRMSNorm) for module in converted.modules()) == len(converted.norm_report)
    assert deviation(model, converted, **inputs_of(name)) < EXACT


@pytest.mark.parametrize('size', IMAGES)
@pytest.mark.parametrize('convert', [to_pre_rmsnorm, to_pre_crmsnorm])
def test_conversion_of_swin(convert, size):
    model = randomised(swin())
    converted = convert(model)
    assert deviation(model, converted, x=noise(2, 3, *IMAGES[size])) < EXACT
    report = converted.norm_report
    last = ['stages.1.blocks.0.norm1', 'stages.1.blocks.0.norm2', 'norm1']
    assert sorted(report.names('converted')) == sorted(['patch_embed.norm', *last])
    # Patch merging distinguishes the means of the merged tokens, so the stream before it must keep them.
    assert 'stages.0.downsample.norm' in report['stages.0.blocks.0.norm2'].reason
    assert 'several vectors' in report['stages.0.downsample.norm'].reason
    if convert is to_pre_crmsnorm:
        assert isinstance(converted.stages[1].blocks[0].norm2, CRMSNorm)
        assert isinstance(converted.stages[1].blocks[0].norm1[0], CRMSNorm)
        assert converted.stages[0].downsample.reduction.out_features == 15


def test_pre_rmsnorm_swin_with_single_stage_needs_one_centring():
    model = randomised(swin(depths=(2,), num_heads=(2,), strides=(4,), out_indices=(0,)))
    converted = to_pre_rmsnorm(model)
    assert converted.norm_report.names('kept') == []
    assert isinstance(converted.patch_embed.norm[1], Centre)
    assert deviation(model, converted, x=noise(2, 3, *IMAGES['padded'])) < EXACT


def test_pre_crmsnorm_number_of_parameters():
    """With d - 1 channels every writer loses a row, every reader a column, and every norm 2 d parameters."""
    d, layers, hidden, vocabulary, positions = 12, 2, 48, 31, 16
    model = randomised(gpt2(layers))
    converted = to_pre_crmsnorm(model)
    head = vocabulary * (d - 1) + vocabulary  # untied, with a bias from the final norm
    block = (d - 1) * 3 * d + 3 * d + d * (d - 1) + (d - 1) + (d - 1) * hidden + hidden + hidden * (d - 1) + (d - 1)
    assert num_parameters(converted) == head + (vocabulary + positions) * (d - 1) + layers * block
    model = randomised(vit(layers))
    d, hidden, patch, classes = 12, 20, 48, 5
    block = (d - 1) * 3 * d + 3 * d + d * (d - 1) + (d - 1) + (d - 1) * hidden + hidden + hidden * (d - 1) + (d - 1)
    entry = (d - 1) * patch + (d - 1) + (d - 1) + 5 * (d - 1)
    assert num_parameters(to_pre_crmsnorm(model)) == entry + layers * block + classes * (d - 1) + classes


@pytest.mark.parametrize('convert', [to_pre_rmsnorm, to_pre_crmsnorm])
def test_conversion_weights_load_into_another_converted_model(convert):
    model = randomised(PlainViT())
    converted = convert(model)
    skeleton = convert(randomised(PlainViT(), seed=5))
    assert deviation(model, skeleton, **inputs_of('plain')) > 1e-2
    skeleton.load_state_dict(converted.state_dict())
    assert deviation(model, skeleton, **inputs_of('plain')) < EXACT


@pytest.mark.parametrize('convert', [to_pre_rmsnorm, to_pre_crmsnorm])
def test_conversion_keeps_post_ln(convert):
    model = randomised(PlainViT(post=True))
    with pytest.warns(UserWarning, match=f'{convert.__name__}: none of 5 norms converted.* blocks.0.norm1: its input'):
        converted = convert(model)
    # Only the last norm reads another norm's output; centring it would cost as much as the conversion saves.
    assert converted.norm_report.names('converted') == []
    assert 'Post-LN' in converted.norm_report['blocks.0.norm2'].reason
    assert deviation(model, converted, **inputs_of('plain')) == 0


@pytest.mark.parametrize('convert', [to_pre_rmsnorm, to_pre_crmsnorm])
@pytest.mark.parametrize('batch_first', [False, True])
def test_conversion_keeps_stream_from_model_input(convert, batch_first):
    """PyTorch's encoder alone. MODELS has it together with a layer that writes to its stream."""
    layer = nn.TransformerEncoderLayer(12, 2, 20, batch_first=batch_first, norm_first=True)
    model = randomised(nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(12), enable_nested_tensor=False))
    with pytest.warns(UserWarning, match='none of 5 norms .* layers.0.norm1: its input is an input of the model'):
        converted = convert(model)
    assert len(converted.norm_report.names('kept')) == 5
    assert all('an input of the model' in record.reason for record in converted.norm_report)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(converted(x), model(x), rtol=0, atol=0)


def test_conversion_post_ln_without_affine():
    """The stream is zero-mean by itself; only the branches must be centred."""
    model = randomised(PlainViT(post=True, affine=False))
    converted = to_pre_rmsnorm(model)
    assert 'blocks.0.norm2' in converted.norm_report.names('converted')
    assert deviation(model, converted, **inputs_of('plain')) < EXACT


def test_conversion_bert_converts_embedding_norm_only():
    from transformers import BertConfig, BertModel

    sizes = dict(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, vocab_size=31)
    model = randomised(BertModel(BertConfig(**sizes), add_pooling_layer=False))
    converted = to_pre_rmsnorm(model)
    assert converted.norm_report.names('converted') == ['embeddings.LayerNorm']
    ids = torch.randint(31, (2, 7))
    with torch.no_grad():
        expected, actual = model(ids).last_hidden_state, converted(ids).last_hidden_state
    assert float((expected - actual).abs().max()) < EXACT


@pytest.mark.parametrize('convert', [to_pre_rmsnorm, to_pre_crmsnorm])
def test_conversion_norm_before_blocks_needs_one_centring(convert):
    """As in CLIP, its output enters the stream with an affine part, so one centring follows it."""
    model = randomised(PlainViT(norm_pre=True))
    converted = convert(model)
    assert converted.norm_report.names('kept') == []
    assert isinstance(converted.norm_pre[1], Centre)
    assert deviation(model, converted, **inputs_of('plain')) < EXACT


def _gradients(model: nn.Module, **inputs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    result = model(**inputs)
    result = result.logits if hasattr(result, 'logits') else result
    (result.sin() * torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)).sum().backward()
    return {
        name.replace('parametrizations.', '').replace('.original', ''): parameter.grad
        for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize('name', ['gpt2', 'plain'])
def test_trainable_conversion_has_gradients_of_pre_ln(name):
    """With tied embeddings and with LayerScale; rounding is 1e-12 of the largest gradient."""
    model = randomised(MODELS[name]())
    converted = to_pre_rmsnorm(model, trainable=True)
    expected, actual = _gradients(model, **inputs_of(name)), _gradients(converted, **inputs_of(name))
    renamed = {key.replace('ls1.0.', 'ls1.').replace('ls2.0.', 'ls2.'): value for key, value in actual.items()}
    assert set(renamed) == set(expected)
    for key, gradient in expected.items():
        assert float((renamed[key] - gradient).abs().max()) < 1e-12 * float(gradient.abs().max()), key
    plain = _gradients(to_pre_rmsnorm(model), **inputs_of(name))
    shared = [key for key in expected if key in plain]
    assert max(float((plain[key] - expected[key]).abs().max()) for key in shared) > 1e-3


def test_trainable_conversion_trains_like_pre_ln_and_is_baked():
    model = randomised(gpt2())
    model.config.resid_pdrop = 0.0
    converted = to_pre_rmsnorm(model, trainable=True)
    for network in (model, converted):
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.1)
        for _ in range(3):
            _gradients(network, **inputs_of('gpt2'))
            optimizer.step()
    # Adam divides by the root of tiny second moments: 1e-8 after three steps is far below a step of 1e-2.
    assert deviation(model, converted, **inputs_of('gpt2')) < 1e-8
    trained = copy.deepcopy(converted)
    baked = bake_centring(converted)
    assert baked is converted
    assert not any('parametrizations' in name for name, _ in baked.named_parameters())
    assert deviation(trained, baked, **inputs_of('gpt2')) < EXACT
    assert _largest_mean_before_norms(baked, **inputs_of('gpt2')) < 1e-13


def test_conversion_with_given_streams():
    """Modules and names are both accepted, and give the same result as tracing."""
    model = randomised(PlainViT(layers=1))
    block = model.blocks[0]
    # Describe the stream by modules and by names.
    streams = [
        ResidualStream(
            12,
            entries=(model.patch_embed, model.cls_token, 'pos_embed'),
            branches=(
                Branch(block.norm1, (block.attn.qkv,), block.attn.proj, block.ls1, block.attn),
                Branch('blocks.0.norm2', ('blocks.0.mlp.0',), 'blocks.0.mlp.3', 'blocks.0.ls2', 'blocks.0.mlp'),
            ),
            exits=(Exit(model.norm, (model.head,)),),
        )
    ]
    # Both conversions give the same reports and weights as tracing.
    for convert in (to_pre_rmsnorm, to_pre_crmsnorm):
        by_hand, found = convert(model, streams), convert(model)
        assert by_hand.norm_report.records == found.norm_report.records
        for (name, a), (other, b) in zip(by_hand.named_parameters(), found.named_parameters(), strict=True):
            assert name == other
            assert torch.equal(a, b)


class GatedBlock(nn.Module):
    """LayerScale as a plain parameter, which tracing does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.body = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.gamma, self.final, self.head = nn.Parameter(torch.ones(8)), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.head(self.final(x + self.gamma * self.body(self.norm(x)).relu()[..., :8]))


class LinearGatedBlock(GatedBlock):
    def forward(self, x):
        x = self.embed(x)
        return self.head(self.final(x + self.gamma * self.body(self.norm(x))))


def test_conversion_plain_parameter_as_scale_needs_given_stream():
    model = randomised(LinearGatedBlock())
    x = noise(2, 5, 4)
    found = to_pre_rmsnorm(model, example_inputs=x)
    assert 'a tensor of unknown origin' in found.norm_report['final'].reason
    stream = ResidualStream(8, ('embed',), (Branch('norm', ('body',), 'body', 'gamma'),), (Exit('final', ('head',)),))
    converted = to_pre_rmsnorm(model, [stream], example_inputs=x)
    assert converted.norm_report.names('kept') == []
    assert bool((converted.gamma == 1).all())
    assert deviation(model, converted, x=x) < EXACT
    assert deviation(model, to_pre_crmsnorm(model, [stream], example_inputs=x), x=x) < EXACT
    with pytest.raises(ValueError, match='trainable needs a module for the scale gamma'):
        to_pre_rmsnorm(model, [stream], example_inputs=x, trainable=True)
    with pytest.raises(ValueError, match='would differ'):  # a ReLU in between: the scale cannot be folded
        to_pre_rmsnorm(randomised(GatedBlock()), [stream], example_inputs=x)


class OwnForward(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize(('kind', 'status'), [(OwnForward, 'converted'), (ChannelsFirst, 'kept')])
def test_conversion_tests_subclasses_numerically(kind, status):
    model = randomised(nn.Sequential(nn.Linear(5, 6), kind(6), nn.Linear(6, 2)))
    converted = to_pre_rmsnorm(model, example_inputs=noise(2, 6, 5)[..., :5] if kind is OwnForward else noise(6, 6, 5))
    assert converted.norm_report['1'].status == status
    assert deviation(model, converted, input=noise(3, 6, 5)) < EXACT


def test_conversion_of_single_norm_raises():
    with pytest.raises(ValueError, match='LayerNorm is itself a norm'):
        to_pre_rmsnorm(nn.LayerNorm(4), example_inputs=noise(2, 4))


def test_drop_channel_drops_last_channel_of_first_output():
    module = nn.MultiheadAttention(6, 2, batch_first=True)
    x = torch.randn(2, 3, 6)
    (wide, weights), (narrow, same) = module(x, x, x), DropChannel(module)(x, x, value=x)
    assert torch.equal(narrow, wide[..., :5])
    assert torch.equal(weights, same)


def test_conversion_wrong_streams_raise():
    model = randomised(PlainViT(layers=1))
    branch = Branch('blocks.0.norm1', (), 'blocks.0.attn.proj', 'blocks.0.ls1')
    with pytest.raises(ValueError, match=r'would differ from the original'):
        to_pre_rmsnorm(model, [ResidualStream(12, ('patch_embed',), (branch,))])  # without class token and positions
    with pytest.raises(ValueError, match='norm is not a LayerNorm over exactly 10 channels'):
        to_pre_rmsnorm(model, [ResidualStream(10, exits=(Exit('norm'),))])
    with pytest.raises(ValueError, match='blocks.0.mlp.1 is not a plain linear layer'):
        to_pre_rmsnorm(model, [ResidualStream(12, entries=('blocks.0.mlp.1',), exits=(Exit('norm'),))])
    with pytest.raises(ValueError, match='Linear .* is not part of the model'):
        to_pre_rmsnorm(model, [ResidualStream(12, entries=(nn.Linear(3, 12),), exits=(Exit('norm'),))])
    with pytest.raises(ValueError, match='choose one'):
        to_pre_rmsnorm(model, fold_affine=True, trainable=True)


class TinyLM(nn.Module):
    """Uses the embedding as head by a function, or returns the stream itself."""

    def __init__(self, leak: str) -> None:
        super().__init__()
        self.leak = leak
        self.embed, self.norm, self.head = nn.Embedding(9, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.register_buffer('positions', torch.randn(16, 8))

    def forward(self, ids):
        x = self.embed(ids) + self.positions[: ids.shape[1]]
        if self.leak == 'tied':
            return F.linear(self.head(self.norm(x)), self.embed.weight)
        return (self.head(self.norm(x)), x) if self.leak == 'output' else self.head(self.norm(x))


@pytest.mark.parametrize(
    ('leak', 'reason'), [('tied', 'whose weight is also read by linear'), ('output', "the model's output")]
)
def test_conversion_keeps_stream_with_other_readers(leak, reason):
    model = randomised(TinyLM(leak))
    converted = to_pre_rmsnorm(model)
    assert reason in converted.norm_report['norm'].reason
    assert deviation(model, converted, ids=torch.arange(6).view(2, 3)) == 0


def test_conversion_centres_fixed_position_encodings():
    model = randomised(TinyLM('none'))
    trainable = to_pre_rmsnorm(model, trainable=True)
    for converted in (to_pre_rmsnorm(model), trainable, bake_centring(copy.deepcopy(trainable))):
        assert converted.norm_report.names('converted') == ['norm']
        assert float(converted.positions.mean(-1).abs().max()) < 1e-15
        assert deviation(model, converted, ids=torch.arange(6).view(2, 3)) < EXACT


def test_conversion_warns_of_unused_parameters(caplog):
    from transformers import ViTModel

    model = ViTModel(vit().config, add_pooling_layer=False, use_mask_token=True)
    model = randomised(model)
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[:, 1] = True
    inputs = dict(pixel_values=noise(2, 3, 8, 8), bool_masked_pos=mask)
    with caplog.at_level(logging.WARNING):
        to_pre_rmsnorm(model)
    assert 'the example inputs do not use embeddings.mask_token' in caplog.text
    converted = to_pre_rmsnorm(model, example_inputs=inputs)
    with torch.no_grad():
        error = (model(**inputs).last_hidden_state - converted(**inputs).last_hidden_state).abs().max()
    assert float(error) < EXACT


def test_conversion_keeps_frozen_parameters_and_modes():
    model = randomised(vit())
    model.train()
    model.vit.layernorm.requires_grad_(False)
    converted = to_pre_rmsnorm(model, inplace=True)
    assert converted is model
    assert converted.training
    norm = converted.vit.layernorm
    assert isinstance(norm, RMSNorm)
    assert norm.training
    assert not norm.weight.requires_grad
    assert converted.vit.embeddings.cls_token.requires_grad
