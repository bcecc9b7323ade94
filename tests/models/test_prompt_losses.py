"""Relation distillation, alignment and contrast of instances: closed forms, invariances, and their use in training."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from dinor1.models.losses import (
    Exemplars,
    InstanceContrast,
    LanguageAlignment,
    Match,
    RelationDistillation,
    alignment_loss,
    instance_contrast_loss,
    relation_distill_loss,
    symmetric_info_nce,
)
from dinor1.models.prompts import (
    exemplar_boxes,
    mean_by_image_and_class,
    per_image_weights,
    prototype_weights,
    sample_prompts,
)
from dinor1.utils.errors import InputError

NAMES = tuple(f'{color} {shape}' for color in ('red', 'blue') for shape in ('disc', 'box', 'star', 'ring'))
WORDS = {
    'model.prompts.language_model': dict(type='WordHashModel', language_dim=64),
    'model.prompts.text_prompts': 'class',
}


def random_prompts(num=7, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, width, generator=generator, dtype=torch.float64)


def named(samples):
    for sample in samples:
        sample.set_metainfo(dict(text=NAMES))
    return samples


# Relation distillation --------------------------------------------------------------------------------------


def test_relation_loss_of_two_prompts_is_the_closed_form():
    """With one cosine c_v and c_t, all four terms of the loss can be written down."""
    visual = torch.tensor([[1.0, 0], [0.6, 0.8]], dtype=torch.float64)  # c_v = 0.6
    text = torch.tensor([[2.0, 0], [0.8, 0.6]], dtype=torch.float64)  # c_t = 0.8
    same, other = (1 / (1 + math.exp(-(1 - c) / tau)) for c, tau in ((0.8, 0.2), (0.6, 0.5)))
    expected = -3 * (same * math.log(other) + (1 - same) * math.log(1 - other))
    assert relation_distill_loss(visual, text, 0.5, 0.2, 3.0).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('wanted', [random_prompts(1), torch.tensor([4])])
def test_relation_loss_of_one_prompt_is_zero(wanted):
    visual = random_prompts(1, seed=1).requires_grad_()
    loss = relation_distill_loss(visual, wanted)
    loss.backward()
    assert loss == 0
    assert torch.equal(visual.grad, torch.zeros_like(visual))


def test_relation_loss_without_prompts_is_zero():
    assert relation_distill_loss(random_prompts()[:0], random_prompts()[:0]) == 0


def test_relation_loss_does_not_depend_on_order_isometry_or_norm():
    visual, text = random_prompts(), random_prompts(seed=1)
    loss = relation_distill_loss(visual, text)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    isometry = torch.linalg.qr(random_prompts(12, 12, seed=2)).Q
    scale = torch.arange(1, 8, dtype=torch.float64)[:, None]
    for changed in (
        relation_distill_loss(visual[order], text[order]),
        relation_distill_loss(visual @ isometry, text),
        relation_distill_loss(visual * scale, text),
    ):
        torch.testing.assert_close(changed, loss, atol=0, rtol=1e-12)
    assert not torch.isclose(relation_distill_loss(visual[order], text), loss)


def test_relation_gradient_is_orthogonal_to_each_prompt():
    visual = random_prompts().requires_grad_()
    relation_distill_loss(visual, random_prompts(seed=1)).backward()
    assert visual.grad.norm(dim=-1).min() > 1e-3
    assert (visual.grad * visual).sum(-1).abs().max() < 1e-12


def test_relation_loss_with_labels_is_supervised_contrast_with_the_diagonal():
    visual, labels = random_prompts(), torch.tensor([2, 0, 2, 1, 0, 2, 7])
    expected = 0.0
    for a in range(7):
        logits = torch.stack([F.cosine_similarity(visual[a], v, dim=0) / 0.1 for v in visual])
        positives = [b for b in range(7) if labels[b] == labels[a]]
        expected -= sum(logits[b] - logits.logsumexp(0) for b in positives) / len(positives) / 7
    torch.testing.assert_close(relation_distill_loss(visual, labels, weight=2.0), 2 * expected)


def test_relation_divergence_vanishes_at_the_fixed_point():
    """The minimum is reached at cos_v = 1 - tau_v / tau_t (1 - cos_t); the loss itself is then the entropy of Q."""
    cosine = 1 - 0.1 / 0.07 * (1 - 0.9)
    visual = torch.tensor([[1.0, 0], [cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64)
    text = torch.tensor([[1.0, 0], [0.9, math.sqrt(1 - 0.81)]], dtype=torch.float64)
    result = RelationDistillation()(visual, text)
    assert result['relation_divergence'].abs() < 1e-12
    assert result['loss_relation'] > 1
    # The cosine of the text itself is not the minimum.
    assert RelationDistillation()(text, text)['relation_divergence'] > 1e-3


def test_relation_loss_leaves_out_pairs_that_are_not_comparable():
    """If prompts of different blocks are not compared, the loss is the mean over the blocks."""
    visual, text = random_prompts(7).requires_grad_(), random_prompts(7, seed=1)
    block = torch.tensor([0, 0, 0, 1, 1, 2, 1])
    loss = relation_distill_loss(visual, text, comparable=block[:, None] == block)
    parts = [relation_distill_loss(visual[block == b], text[block == b]) * (block == b).sum() / 7 for b in range(3)]
    torch.testing.assert_close(loss, sum(parts))
    loss.backward()
    assert visual.grad.isfinite().all()
    assert torch.equal(visual.grad[5], torch.zeros(12, dtype=torch.float64))


def test_mean_by_image_and_class_gives_each_image_one_row_per_class():
    labels = [torch.tensor([5, 2, 5]), torch.tensor([], dtype=torch.long), torch.tensor([5])]
    rows = torch.tensor([[1.0], [10], [3], [7]])
    means, index = mean_by_image_and_class(rows, labels, torch.tensor([2, 5]))
    assert means.tolist() == [[10], [2], [7]]
    assert index.tolist() == [0, 1, 1]


@pytest.mark.parametrize('target', ['text', 'label'])
def test_relation_losses_of_a_batch_equal_the_function(build_tiny, make_batch, target):
    model = build_tiny(**WORDS, **{'model.prompts.relation_distill': dict(weight=4.0, target=target)}).eval()
    inputs, samples = make_batch((4, 3))
    named(samples)
    losses = model.loss(inputs, samples)
    # Encode every box, and average the boxes of each image and class.
    features = model.encode_image(inputs, samples)
    rows = model.encode_boxes(features, [s.gt_instances.bboxes for s in samples], [s.img_shape for s in samples])
    image = torch.tensor([0] * 4 + [1] * 3)
    labels = torch.cat([s.gt_instances.labels for s in samples])
    pairs = sorted(set(zip(image.tolist(), labels.tolist(), strict=True)))
    visual = torch.stack([rows[(image == i) & (labels == c)].mean(0) for i, c in pairs])
    classes = [c for _, c in pairs]
    text = model.language_model.class_embeddings([NAMES[c] for c in classes])
    wanted = text if target == 'text' else torch.tensor(classes)
    torch.testing.assert_close(losses['loss_relation'], relation_distill_loss(visual, wanted, weight=4.0))
    assert losses['relation_divergence'] >= 0
    assert not losses['relation_divergence'].requires_grad


def test_relation_loss_needs_no_text(build_tiny, make_batch):
    model = build_tiny(**{'model.prompts.relation_distill': dict()})
    assert model.loss(*make_batch((4, 3)))['loss_relation'] > 0
    with pytest.raises(
        InputError, match=r"^model\.prompts\.relation_distill\.target='text' needs .*set target='label'"
    ):
        build_tiny(**{'model.prompts.relation_distill': dict(target='text')})


def test_relation_loss_does_not_compare_indistinguishable_classes(build_tiny, make_batch):
    """Image 0 was annotated for class 1 only and image 1 for class 6 only: there is no pair left to compare."""
    model = build_tiny(**WORDS, **{'model.prompts.relation_distill': dict()})
    inputs, samples = make_batch((1, 1))
    named(samples)
    for sample, label in zip(samples, (1, 6), strict=True):
        sample.gt_instances.labels[:] = label
    together = model.loss(inputs, samples)['loss_relation']
    for sample, label in zip(samples, (1, 6), strict=True):
        sample.set_metainfo(dict(exhaustive_labels=[label], annotated_labels=[label]))
    assert together > 0
    assert model.loss(inputs, samples)['loss_relation'] == 0
    # Both images are needed to distinguish the classes.
    samples[0].set_metainfo(dict(exhaustive_labels=[1, 6], annotated_labels=[1, 6]))
    assert model.loss(inputs, samples)['loss_relation'] == 0
    samples[1].set_metainfo(dict(exhaustive_labels=[1, 6], annotated_labels=[1, 6]))
    torch.testing.assert_close(model.loss(inputs, samples)['loss_relation'], together, rtol=0.2, atol=0)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [(dict(target='name'), "must be 'text' or 'label', got 'name'"), (dict(tau_v=0), 'must be greater than 0')],
)
def test_relation_distillation_rejects_invalid_settings(settings, message):
    with pytest.raises(InputError, match=message):
        RelationDistillation(**settings)


# Alignment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('normalize', [True, False])
def test_alignment_loss_equals_a_sum_over_pairs(normalize):
    visual, text, targets = random_prompts(4), random_prompts(6, seed=1), [5, 0, 5, 2]

    def similarity(a, c):
        if normalize:
            return 3 * F.cosine_similarity(visual[a], text[c], dim=0)
        return 3 * visual[a] @ text[c]

    to_text = to_visual = 0.0
    for a, own in enumerate(targets):
        to_text -= similarity(a, own) - torch.stack([similarity(a, c) for c in range(6)]).logsumexp(0)
        # Prompt 2 shows the class of prompt 0, and is not its negative.
        rivals = [b for b in range(4) if b == a or targets[b] != own]
        to_visual -= similarity(a, own) - torch.stack([similarity(b, own) for b in rivals]).logsumexp(0)
    index = torch.tensor(targets)
    torch.testing.assert_close(alignment_loss(visual, text, index, 3.0, normalize, symmetric=False), to_text / 4)
    torch.testing.assert_close(alignment_loss(visual, text, index, 3.0, normalize), (to_text + to_visual) / 8)


def test_alignment_loss_without_normalisation_starts_near_480():
    """Dot products of layer-normalised vectors of width 256 have a deviation of 16; 365 classes, temperature 0.1."""
    visual, text = (F.layer_norm(random_prompts(num, 256, seed=num), (256,)) for num in (64, 365))
    loss = alignment_loss(visual, text, torch.arange(64), 10.0, normalize=False, symmetric=False)
    assert 430 < loss < 530
    assert alignment_loss(visual, text, torch.arange(64), 10.0, symmetric=False) < 10


def test_language_alignment_defaults_are_those_of_dino_r1():
    visual, text = random_prompts(5).requires_grad_(), random_prompts(5, seed=1).requires_grad_()
    alignment = LanguageAlignment(loss_weight=7.0).double()
    loss = alignment(visual, text)
    torch.testing.assert_close(loss, 7 * symmetric_info_nce(visual, text, torch.tensor(math.log(1 / 0.07))))
    loss.backward()
    assert text.grad is None
    assert alignment.logit_scale.grad.abs() > 0


def test_language_alignment_with_a_fixed_scale_has_no_parameters():
    alignment = LanguageAlignment(scale=10.0, normalize=False, symmetric=False, text_gradient=True, loss_weight=1.0)
    assert not list(alignment.parameters())
    visual, text = random_prompts(2), random_prompts(3, seed=1).requires_grad_()
    targets = torch.tensor([2, 2])
    loss = alignment(visual, text, targets)
    torch.testing.assert_close(loss, F.cross_entropy(10 * visual @ text.t(), targets))
    loss.backward()
    assert text.grad.abs().max() > 0


@pytest.mark.parametrize('settings', [dict(scale=0.0), dict(pairs='box')])
def test_language_alignment_rejects_invalid_settings(settings):
    with pytest.raises(InputError, match=f'LanguageAlignment: {next(iter(settings))} must be'):
        LanguageAlignment(**settings)


@pytest.mark.parametrize('counts', [(3, 2), (0, 0)])
def test_alignment_with_text_gradient_trains_the_map_of_the_text(build_tiny, make_batch, counts):
    settings = dict(loss_weight=1.0, text_gradient=True, pairs='image')
    model = build_tiny(**WORDS, **{'model.prompts.alignment': settings})
    inputs, samples = make_batch(counts)
    loss = model.loss(inputs, named(samples))['loss_alignment']
    loss.backward()
    gradient = model.text_feat_map.weight.grad
    assert gradient.isfinite().all()
    assert (gradient.abs().max() > 0) == (sum(counts) > 0)


@torch.no_grad()
def test_alignment_by_image_of_single_boxes_equals_alignment_by_class(build_tiny, make_batch):
    """With one box per class, both kinds of pairs are the same, and so is the trained map of the text."""
    inputs, samples = make_batch((2, 2))
    for sample, labels in zip(named(samples), ([3, 1], [6, 0]), strict=True):
        sample.gt_instances.labels = torch.tensor(labels)
    losses = []
    for settings in (dict(), dict(pairs='image'), dict(text_gradient=True)):
        model = build_tiny(**WORDS, **{'model.prompts.alignment': dict(loss_weight=1.0) | settings}).eval()
        losses.append(model.loss(inputs, copy.deepcopy(samples))['loss_alignment'])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


# Contrast of instances --------------------------------------------------------------------------------------


def test_instance_contrast_loss_equals_a_sum_over_pairs():
    queries, prompts = random_prompts(4), random_prompts(4, seed=1)
    expected = 0.0
    for rows, columns in ((queries, prompts), (prompts, queries)):
        for i in range(4):
            logits = torch.stack([F.cosine_similarity(rows[i], column, dim=0) / 0.2 for column in columns])
            expected -= (logits[i] - logits.logsumexp(0)) / 8
    torch.testing.assert_close(instance_contrast_loss(queries, prompts, 0.2), expected)
    assert instance_contrast_loss(queries[:1], prompts[:1], 0.2) == 0
    assert instance_contrast_loss(queries[:0], prompts[:0], 0.2) == 0


def test_instance_contrast_pairs_exemplars_with_their_matched_queries():
    """Layer 0 has the exemplars' embeddings at the matched queries; layer 1 has them exchanged. Query 5 is no match."""
    embedding = torch.eye(4)[:3]
    exemplars = Exemplars(torch.tensor([0, 1, 1]), torch.tensor([2, 0, 7]), embedding)
    hidden = torch.randn(2, 2, 6, 4)
    hidden[0, 0, 3], hidden[0, 1, 1] = embedding[0], embedding[1]
    hidden[1, 0, 3], hidden[1, 1, 1] = embedding[1], embedding[0]
    stage, image = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 0, 0, 1])
    match = Match(stage, image, torch.tensor([3, 5, 1] * 2), torch.tensor([2, 1, 0] * 2))
    loss = InstanceContrast(4, weight=2.0, tau=0.1)
    for projection in (loss.query_proj, loss.prompt_proj):
        torch.nn.init.eye_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
    right, wrong = loss(hidden, match, exemplars)
    assert right.item() == pytest.approx(2 * math.log1p(math.exp(-10)), rel=1e-3)
    assert wrong.item() == pytest.approx(2 * math.log1p(math.exp(10)), rel=1e-5)


def test_instance_contrast_rejects_invalid_settings():
    with pytest.raises(InputError, match=r'instance_contrast: weight and tau must be greater than 0, .* tau=0'):
        InstanceContrast(4, tau=0)


def test_exemplar_boxes_are_the_boxes_that_prompts_are_made_of():
    labels = [torch.tensor([5, 2, 5]), torch.tensor([], dtype=torch.long), torch.tensor([5, 2])]
    draw = sample_prompts(labels)
    chosen = exemplar_boxes(labels, draw)
    assert [len(own) for own in chosen] == [3, 0, 2]
    drawn = set(zip(draw.image.tolist(), draw.box.tolist(), strict=True))
    assert {(i, j) for i, own in enumerate(chosen) for j in own.nonzero().flatten().tolist()} == drawn
    for weights in (prototype_weights(labels, draw.labels), per_image_weights(labels, draw.labels)):
        chosen = torch.cat(exemplar_boxes(labels, draw._replace(weights=weights)))
        assert torch.equal(chosen, (weights.reshape(-1, 5) > 0).any(0))


def test_instance_contrast_is_a_loss_of_every_decoder_layer(build_tiny, make_batch):
    model = build_tiny(**{'model.bbox_head.instance_contrast': dict(weight=1, tau=0.07)})
    inputs, samples = make_batch((4, 3))
    for sample, labels in zip(samples, ([0, 1, 2, 3], [4, 5, 6]), strict=True):
        sample.gt_instances.labels = torch.tensor(labels)
    losses = model.loss(inputs, samples)
    # Two decoder layers; seven classes are seven exemplars, so that a uniform guess costs log 7.
    assert {name for name in losses if 'instance' in name} == {'d0.loss_instance', 'loss_instance'}
    assert 0.2 * math.log(7) < losses['loss_instance'] < 5 * math.log(7)
    losses['loss_instance'].backward()
    for part in (model.prompt_encoder.norms[2], model.decoder.norm, model.bbox_head.instance_contrast.query_proj):
        assert part.weight.grad.abs().max() > 0
