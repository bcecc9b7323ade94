"""Gates of prompts in encoder and decoder, the map of the similarity head, and the network without any of them."""

import copy

import pytest
import torch
import torch.nn.functional as F

from dinor1.models import ReferenceModel
from dinor1.models.losses import pad_targets
from dinor1.models.transformer import (
    PromptFusionBlock,
    PromptSimilarity,
    SelectiveEncoder,
    TransformerDims,
    flatten_levels,
    selective_gate,
)
from dinor1.models.transformer.positions import CachedSinePositions
from dinor1.structures import PromptBatch, PromptSet
from dinor1.utils.errors import InputError

DIMS = TransformerDims(32, 4, 48, num_feature_levels=2)


def selective(**settings):
    """Overrides of a config that replace the encoder."""
    encoder = dict(
        _delete_=True,
        type='SelectiveEncoder',
        num_layers=2,
        num_fusion_layers=1,
        fusion=dict(embed_dims=64, init_values=0.3, dropout=0.0),
    )
    return {'model.encoder': encoder | settings}


ALL_ON = {
    **selective(num_fusion_layers=2),
    'model.decoder.decoder_fusion': 'selective',
    'model.bbox_head.query_map': True,
    'model.bbox_head.instance_contrast': dict(),
    'model.prompts.relation_distill': dict(),
    'model.prompts.prompt_sampling': 'class_prototype',
}


def total(losses):
    return sum(value.sum() for name, value in losses.items() if 'loss' in name)


def features_of(num_images=2, seed=0):
    """Two levels of random features; the second image has padding."""
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randn(num_images, 32, side, side, generator=generator, dtype=torch.float64) for side in (8, 4)]
    shapes = [(64, 64), (48, 40)][:num_images]
    return flatten_levels(levels, shapes, (64, 64), CachedSinePositions(num_feats=16), torch.zeros(2, 32))


def encoder_of(seed=0, **settings):
    torch.manual_seed(seed)
    settings = dict(fusion=dict(embed_dims=64, init_values=0.3, dropout=0.0), num_layers=2) | settings
    return SelectiveEncoder(DIMS, **settings).double().eval()


def prompts_of(scales=(1, 1, 1), seed=1, batch=2):
    """Prompts for every image; a short prompt has a low logit at every token, since the bias is -log(99)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(scales), 32, generator=generator, dtype=torch.float64)
    return PromptBatch.shared(rows * torch.tensor(scales, dtype=torch.float64)[:, None], batch)


# Gates ------------------------------------------------------------------------------------------------------


def test_selective_gate_opens_for_prompts_with_a_similar_token():
    """The threshold of theta = 0.1 is log(1 / 9) = -2.197."""
    logits = torch.tensor([[[-2.0, -3.0, 5.0], [-9.0, -2.2, -1.0]], [[-2.19, 0.0, -8.0], [-2.3, -5.0, -7.0]]])
    valid = torch.tensor([[True, True, False], [True, True, True]])
    gate = selective_gate(logits.requires_grad_(), valid, 0.1)
    assert gate.tolist() == [[[True, False, False]], [[True, True, False]]]
    assert selective_gate(logits, valid, 0.0).tolist() == valid[:, None].tolist()
    assert not selective_gate(logits, valid, 1.0).any()


def test_threshold_zero_equals_full_fusion_bitwise():
    full = encoder_of(encoder_fusion='full', num_fusion_layers=2)
    gated = encoder_of(1, num_fusion_layers=2, fusion_threshold=0.0)
    missing, unexpected = gated.load_state_dict(full.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith('gates.') for name in missing)
    prompts = prompts_of()._replace(mask=torch.tensor([[True, True, False], [True, False, True]]))
    expected, output = full(features_of(), prompts), gated(features_of(), prompts)
    assert torch.equal(output.memory, expected.memory)
    assert torch.equal(output.prompts.embeddings, expected.prompts.embeddings)
    assert expected.gates == ()


@pytest.mark.parametrize('settings', [dict(fusion_threshold=1.0), dict(encoder_fusion='none')])
def test_image_without_open_gates_is_only_normalised(settings):
    encoder = encoder_of(**dict(num_fusion_layers=1) | settings)
    features = features_of(1)
    output = encoder(features, prompts_of(batch=1))
    # Without fusion, image features are those of the image layers alone.
    plain = encoder_of(encoder_fusion='none')
    plain.load_state_dict(encoder.state_dict(), strict=False)
    hidden = []
    plain.layers[1].register_forward_pre_hook(lambda module, args, kwargs: hidden.append(kwargs), with_kwargs=True)
    expected = plain(features, prompts_of(batch=1)).memory
    if settings.get('encoder_fusion') != 'none':
        # With closed gates, the last layer gets the normalised features.
        normalised = encoder.fusion_layers['1'].layer_norm_v(hidden[0]['query'])
        expected = plain.layers[1](**hidden[0] | dict(query=normalised))
    assert torch.equal(output.memory, expected)


@torch.no_grad()
def test_closed_prompt_leaves_image_features_exactly_unchanged():
    encoder = encoder_of(num_fusion_layers=1, fusion_threshold=0.02)
    features = features_of()
    output = encoder(features, prompts_of((1, 1, 0.1)))
    assert output.gates[0][:, 0].tolist() == [[True, True, False]] * 2
    # Another closed prompt in its place changes nothing; full fusion depends on it.
    other = prompts_of((1, 1, -0.1))
    assert torch.equal(encoder(features, other).memory, output.memory)
    full = encoder_of(encoder_fusion='full', num_fusion_layers=1)
    full.load_state_dict(encoder.state_dict(), strict=False)
    whole = full(features, prompts_of((1, 1, 0.1))).memory
    assert (full(features, other).memory - whole).abs().max() > 1e-3
    # Neither does its absence; sums over another number of prompts are rounded differently.
    without = prompts_of((1, 1, 0.1))
    without = PromptBatch(without.embeddings[:, :2], without.mask[:, :2], without.groups[:, :2])
    torch.testing.assert_close(encoder(features, without).memory, output.memory, atol=1e-13, rtol=0)
    assert (full(features, without).memory - whole).abs().max() > 1e-3
    # The image refines the closed prompt too.
    assert not torch.equal(output.prompts.embeddings[0, 2], output.prompts.embeddings[1, 2])


@torch.no_grad()
def test_gate_does_not_change_the_embedding_of_any_prompt():
    torch.manual_seed(0)
    block = PromptFusionBlock(32, 64, dropout=0.0, init_values=0.5)
    feat, prompts = torch.randn(2, 9, 32), torch.randn(2, 3, 32)
    gates = [torch.tensor(gate).expand(2, 1, -1) for gate in ([True] * 3, [True, False, True], [False] * 3)]
    images, embeddings = zip(*(block(feat, prompts, gate=gate) for gate in gates), strict=True)
    assert all(torch.equal(embedding, embeddings[0]) for embedding in embeddings)
    assert (images[1] - images[0]).abs().max() > 1e-3


def test_fusion_gradient_is_finite_if_all_gates_of_an_image_are_closed():
    torch.manual_seed(0)
    block = PromptFusionBlock(32, 64, dropout=0.0, init_values=0.5)
    feat, prompts = torch.randn(2, 9, 32), torch.randn(2, 3, 32)
    leaf = feat.clone().requires_grad_()
    gate = torch.tensor([[[False] * 3], [[True, False, True]]])
    image, _ = block(leaf, prompts, gate=gate)
    image[0].square().sum().backward()
    normalised = feat[0].clone().requires_grad_()
    block.layer_norm_v(normalised).square().sum().backward()
    torch.testing.assert_close(leaf.grad[0], normalised.grad)
    assert torch.equal(block.gamma_v.grad, torch.zeros(32))


@torch.no_grad()
def test_given_gates_replace_those_of_the_encoder():
    encoder = encoder_of(num_fusion_layers=2, fusion_threshold=0.02)
    features, prompts = features_of(), prompts_of((1, 1, 0.1))
    own = encoder(features, prompts)
    again = encoder(features, prompts, gates=own.gates)
    assert torch.equal(again.memory, own.memory)
    assert again.gate_logits == ()
    closed = encoder(features, prompts, gates=[torch.zeros_like(gate) for gate in own.gates])
    assert (closed.memory - own.memory).abs().max() > 1e-3


def test_encoder_loads_fusion_layers_under_the_numbers_of_grounding_dino():
    names = set(SelectiveEncoder(DIMS, 6).state_dict())
    assert {name.split('.')[1] for name in names if name.startswith('fusion_layers.')} == {'3', '4', '5'}
    assert not [name for name in names if name.startswith('text_layers.')]


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (selective(encoder_fusion='some'), r"model\.encoder\.encoder_fusion must be 'none', 'full' or 'selective'"),
        (selective(num_fusion_layers=3), r'model\.encoder\.num_fusion_layers must be from 1 to num_layers=2, got 3'),
        (selective(fusion_threshold=1.5), r'model\.encoder\.fusion_threshold must be a probability'),
        ({'model.decoder.decoder_fusion': 'gated'}, r"model\.decoder\.decoder_fusion must be 'none', 'full' or"),
        ({'model.decoder.fusion_threshold': -1}, r'model\.decoder\.fusion_threshold must be a probability'),
    ],
)
def test_fusion_rejects_invalid_settings(build_tiny, overrides, message):
    with pytest.raises(InputError, match=message):
        build_tiny(**overrides)


# The map of the similarity head -----------------------------------------------------------------------------


def test_query_map_bounds_the_logits():
    """At initial weights a logit is 16 cos - log(99) for C = 256, for any norm of the feature."""
    head = PromptSimilarity(query_map=256)
    feat = torch.randn(1, 50, 256)
    prompts = F.layer_norm(torch.randn(1, 4, 256), (256,))
    mask = torch.tensor([[True, True, True, False]])
    logits = head(feat * 1000, prompts, mask)
    mapped = F.layer_norm(F.linear(feat * 1000, head.query_map[0].weight, head.query_map[0].bias), (256,))
    cosine = F.cosine_similarity(mapped[:, :, None], prompts[:, None], dim=-1)
    expected = 16 * cosine[..., :3] - torch.tensor(99.0).log()
    torch.testing.assert_close(logits[..., :3], expected, atol=1e-4, rtol=0)
    assert (logits[..., 3] == float('-inf')).all()


def test_query_map_has_separate_weights_for_every_stage(build_tiny):
    model = build_tiny(**selective(num_fusion_layers=2), **{'model.bbox_head.query_map': True})
    maps = [module.query_map for module in model.modules() if isinstance(module, PromptSimilarity)]
    # Two decoder layers, query selection, and two gates.
    assert len({id(m) for m in maps}) == len(maps) == 5
    assert all(module.bias.item() == pytest.approx(-4.59512) for module in model.bbox_head.cls_branches)


# Decoder ----------------------------------------------------------------------------------------------------


def decoder_outputs(build_tiny, make_batch, prompts, settings):
    """Logits and boxes of models with equal weights and different settings of the decoder."""
    inputs, samples = make_batch((1, 1))
    whole = build_tiny().eval()
    for name, parameter in whole.named_parameters():
        if 'reg_branches' in name or name.endswith(('gamma_v', 'gamma_l')):
            parameter.data.normal_(std=0.1)
    results = []
    for setting in settings:
        model = build_tiny(**{f'model.decoder.{key}': value for key, value in setting.items()}).eval()
        model.load_state_dict(whole.state_dict(), strict=False)
        results.append(model(inputs, samples, prompts=prompts))
    return results


@torch.no_grad()
def test_decoder_gates_range_from_no_attention_to_full_attention(build_tiny, make_batch):
    prompts = PromptSet.from_classes(torch.randn(3, 32), 'abc')
    full, default, opened, none, closed = decoder_outputs(
        build_tiny,
        make_batch,
        prompts,
        [
            dict(decoder_fusion='full'),
            dict(),
            dict(decoder_fusion='selective', fusion_threshold=0.0),
            dict(decoder_fusion='none'),
            dict(decoder_fusion='selective', fusion_threshold=1.0),
        ],
    )
    for one, other in ((default, full), (opened, full), (closed, none)):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert (full[0] - none[0]).abs().max() > 1e-3


@torch.no_grad()
def test_decoder_gate_is_decided_by_the_selected_tokens(build_tiny, make_batch):
    """A threshold between the highest logits of two prompts hides the lower one from the queries."""
    inputs, samples = make_batch((1,))
    prompts = PromptSet.from_classes(torch.randn(2, 32) * torch.tensor([[1.0], [0.1]]), 'ab')
    model = build_tiny(**{'model.decoder.decoder_fusion': 'selective'}).eval()
    _, passes = model.predict_and_output(inputs, samples, prompts)
    output = passes[0][0]
    highest = output.selection.cls_logits[0].amax(0).sigmoid().tolist()
    model.decoder.fusion_threshold = sum(highest) / 2
    features = model.encode_image(inputs, samples)
    states = []
    for scale in (1.0, 7.0):
        encoded = model.encoder(features, PromptBatch.stack([prompts]))
        changed = encoded.prompts.embeddings.clone()
        changed[0, highest.index(min(highest))] *= scale
        states.append(
            model.decoder(
                model.query_embedding.weight[None],
                output.selection.boxes,
                encoded.memory,
                features,
                encoded.prompts._replace(embeddings=changed),
                model.bbox_head.reg_branches,
                output.selection.cls_logits,
            )[0]
        )
    assert torch.equal(*states)


# The detector -----------------------------------------------------------------------------------------------


def test_switches_at_their_baseline_values_change_nothing(build_tiny, make_batch):
    text = {
        'model.prompts.language_model': dict(type='WordHashModel'),
        'model.prompts.alignment': dict(loss_weight=2.0),
        'model.prompts.text_prompts': 'class',
    }
    baseline = {
        'model.bbox_head.query_map': False,
        'model.bbox_head.instance_contrast': None,
        'model.decoder.decoder_fusion': 'full',
        'model.prompts.relation_distill': None,
        'model.prompts.alignment': dict(
            loss_weight=2.0, normalize=True, symmetric=True, scale=None, text_gradient=False, pairs='class'
        ),
    }
    inputs, samples = make_batch((3, 2))
    for sample in samples:
        sample.set_metainfo(dict(text=[f'class {i}' for i in range(8)]))
    results = []
    for overrides in (text, text | baseline):
        model = build_tiny(**overrides)
        torch.manual_seed(5)
        losses = model.loss(inputs, copy.deepcopy(samples))
        total(losses).backward()
        results.append((losses, {name: p.grad for name, p in model.named_parameters()}))
    (losses, gradients), (again, gradients_again) = results
    assert list(losses) == list(again)
    assert list(gradients) == list(gradients_again)
    assert all(torch.equal(losses[name], again[name]) for name in losses)
    for name, gradient in gradients.items():
        other = gradients_again[name]
        assert (gradient is None and other is None) or torch.equal(gradient, other), name


@pytest.mark.parametrize('counts', [(0, 0), (0, 2), (3, 2)])
@pytest.mark.parametrize('threshold', [0.0, 0.1, 1.0])
def test_loss_with_all_switches_is_finite_and_reaches_every_parameter(build_tiny, make_batch, counts, threshold):
    overrides = copy.deepcopy(ALL_ON)
    overrides['model.encoder']['fusion_threshold'] = threshold
    overrides['model.decoder.fusion_threshold'] = threshold
    overrides['model.bbox_head.loss_grqo'] = dict(type='GRQOLoss')
    model = build_tiny(**overrides)
    model.reference = ReferenceModel(copy.deepcopy(model).eval())
    losses = model.loss(*make_batch(counts))
    assert {'gate0.loss_cls', 'gate1.loss_cls', 'loss_instance', 'd0.loss_instance', 'loss_relation'} <= set(losses)
    assert all(value.isfinite().all() for value in losses.values())
    total(losses).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_loss_with_all_switches_under_autocast_is_finite(build_tiny, make_batch, dtype):
    model = build_tiny(**ALL_ON)
    with torch.autocast('cpu', dtype):
        losses = model.loss(*make_batch((3, 0)))
    assert all(value.isfinite().all() for value in losses.values())


def test_gate_loss_of_the_selection_logits_equals_the_loss_of_the_encoder_stage(build_tiny, make_batch):
    """A gate with the logits of query selection has the same assignment, targets and loss."""
    model = build_tiny(**selective())
    inputs, samples = make_batch((4, 3))
    _, output = model.loss_and_output(inputs, samples)
    assert output.gate_logits.shape == (1, 2, 12, output.prompts.mask.shape[1])
    labels = [sample.gt_instances.labels for sample in samples]
    classes = torch.cat(labels).unique()
    maps = [(label[:, None] == classes).float() for label in labels]
    boxes = [sample.gt_instances.bboxes for sample in samples]
    targets = pad_targets(boxes, maps, [sample.img_shape for sample in samples])
    gate_logits = torch.stack([output.selection.cls_logits, output.gate_logits[0]])
    losses = model.bbox_head.loss(output._replace(gate_logits=gate_logits), targets)
    torch.testing.assert_close(losses['gate0.loss_cls'], losses['enc_loss_cls'])
    assert not torch.isclose(losses['gate1.loss_cls'], losses['enc_loss_cls'])


def test_gate_logits_belong_to_the_selected_tokens(build_tiny, make_batch):
    model = build_tiny(**selective()).eval()
    inputs, samples = make_batch((2, 1))
    _, output = model.loss_and_output(inputs, samples)
    prompts = PromptSet.from_classes(torch.randn(3, 32), 'abc')
    _, passes = model.predict_and_output(inputs, samples, prompts)
    assert passes[0][0].gate_logits is None
    # The gate of the fused layer, at the tokens that were selected.
    seen = []
    model.encoder.gates['1'].register_forward_hook(lambda module, args, logits: seen.append(logits))
    torch.manual_seed(0)
    _, output = model.loss_and_output(inputs, samples)
    for i, own in enumerate(output.selection.tokens):
        assert torch.equal(output.gate_logits[0, i], seen[0][i, own])


def test_reference_uses_the_gates_of_the_student(build_tiny, make_batch):
    """A reference whose own gates would all be closed gives the same KL as one with the student's gates."""
    model = build_tiny(**selective(fusion_threshold=0.02), **{'model.bbox_head.loss_grqo': dict(type='GRQOLoss')})
    inputs, samples = make_batch((3, 2))
    reference = copy.deepcopy(model).eval()
    closed = copy.deepcopy(reference)
    for gate in closed.encoder.gates.values():
        gate.similarity.bias.data.fill_(-100)
    divergence = []
    for other in (reference, closed):
        model.reference = ReferenceModel(other)
        torch.manual_seed(0)
        divergence.append(model.loss(inputs, copy.deepcopy(samples))['grqo_kl'])
    assert divergence[0] > 0
    assert torch.equal(*divergence)
    # Their own gates differ: without those of the student, the scores of the two references differ.
    prompts = PromptSet.from_classes(torch.randn(3, 32), 'abc')
    scores = [other(inputs, samples, prompts=prompts)[0] for other in (reference, closed)]
    assert not torch.equal(*scores)


@torch.no_grad()
def test_absent_prompt_changes_no_box_if_its_gate_is_closed(build_tiny, make_batch):
    """With all 84 tokens selected and equal query contents; full fusion and attention change the boxes."""
    torch.manual_seed(3)
    embeddings = torch.randn(4, 32) * torch.tensor([[1.0], [1.0], [1.0], [0.05]])
    few, more = PromptSet.from_classes(embeddings[:3], 'abc'), PromptSet.from_classes(embeddings, 'abcd')
    inputs, samples = make_batch((1,))
    distances = {}
    for fusion in ('selective', 'full'):
        overrides = selective(encoder_fusion=fusion, fusion_threshold=0.013)
        model = build_tiny(
            **overrides,
            **{
                'model.num_queries': 84,
                'model.decoder.decoder_fusion': fusion,
                'model.decoder.fusion_threshold': 0.5,
            },
        ).eval()
        for name, parameter in model.named_parameters():
            if 'reg_branches' in name:
                parameter.normal_(std=0.05)
        model.query_embedding.weight[:] = model.query_embedding.weight[:1]
        boxes = [model(inputs, samples, prompts=prompts)[1][-1, 0] for prompts in (few, more)]
        distances[fusion] = torch.cdist(*boxes, p=1).amin(-1).max()
    assert distances['selective'] < 1e-4
    assert distances['full'] > 1e-3
