"""Federated labels: an image gives no loss for classes that it was not annotated for."""

import copy

import pytest
import torch

from dinor1.models import ReferenceModel
from dinor1.models.losses import hungarian_match, matching_cost, pad_targets, rewards_from_cost, symmetric_info_nce
from dinor1.models.losses.prompt_groups import grouped_gain, prompt_groups
from dinor1.models.prompts import batch_scope, sample_prompts
from dinor1.utils.errors import InputError

NAMES = tuple(f'class {i}' for i in range(8))
ALL = list(range(8))
GRQO = [None, dict(type='GRQOLoss'), dict(type='GRQOLoss', objective='policy', groups='prompt', one_sided_kl=True)]
TEXT = {
    'model.prompts.language_model': dict(type='WordHashModel'),
    'model.prompts.alignment': dict(type='LanguageAlignment', loss_weight=2.0),
    'model.prompts.text_prompts': 'class',
}


def set_scopes(samples, exhaustive, annotated=None) -> None:
    for sample, own, looked_for in zip(samples, exhaustive, annotated or exhaustive, strict=True):
        sample.set_metainfo(dict(exhaustive_labels=own, annotated_labels=looked_for))


def set_labels(samples, labels) -> None:
    for sample, own in zip(samples, labels, strict=True):
        sample.gt_instances.labels = torch.tensor(own, dtype=torch.long)


def total(losses):
    return sum(value.sum() for name, value in losses.items() if 'loss' in name)


def with_reference(model):
    """Give the model a reference with different weights, so that no KL is zero."""
    model.reference = ReferenceModel(copy.deepcopy(model).eval())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def watch_logits(model) -> list[torch.Tensor]:
    """List that the next loss fills with the logits (bs, N, K) of every branch, which keep their gradients."""
    seen = []

    def keep(module, inputs, output):
        if output.requires_grad:
            output.retain_grad()
            seen.append(output)

    for branch in model.bbox_head.cls_branches:
        branch.register_forward_hook(keep)
    return seen


# Prompts offered to an image --------------------------------------------------------------------------------


def test_batch_scope_offers_classes_known_to_be_present_or_absent(make_batch):
    _, samples = make_batch((2, 1, 0, 0))
    set_labels(samples, [[1, 4], [6], [], []])
    set_scopes(samples, [[1, 2], [], [4, 6], [7]], [[1, 2], [5, 6], [4, 6], [7]])
    labels = [sample.gt_instances.labels for sample in samples]
    draw = sample_prompts(labels)
    scope = batch_scope(samples, labels, draw)
    assert draw.labels.tolist() == [1, 4, 6]
    yes, no = True, False
    assert scope.exhaustive.tolist() == [[yes, no, no], [no] * 3, [no, yes, yes], [no] * 3]
    # Nothing is known about the last image: it is offered all prompts, because every image needs at least one.
    assert scope.offered.tolist() == [[yes, yes, no], [no, no, yes], [no, yes, yes], [yes] * 3]
    # A box of class 1 is not of class 4, because image 0 shows both; whether it is of class 6 is unknown.
    assert scope.told_apart.tolist() == [[yes, yes, no], [yes, yes, no], [no, no, yes]]


def test_batch_scope_compares_classes_by_name(make_batch):
    """A class has different indices in different data sets."""
    _, samples = make_batch((1, 1))
    samples[0].set_metainfo(dict(text=('cup', 'jar'), exhaustive_labels=[0], annotated_labels=[0]))
    samples[1].set_metainfo(dict(text=('nut', 'cup', 'jar'), exhaustive_labels=[0, 1], annotated_labels=[0, 1]))
    labels, classes = [torch.tensor([0]), torch.tensor([2])], ('cup', 'jar', 'nut')  # nut has index 2 in the batch
    draw = sample_prompts(labels, classes)
    assert draw.names() == ['cup', 'nut']
    assert batch_scope(samples, labels, draw).offered.tolist() == [[True, False], [True, True]]


def test_batch_scope_treats_images_without_lists_as_exhaustive(make_batch):
    _, samples = make_batch((1, 1))
    labels = [torch.tensor([0]), torch.tensor([3])]
    draw = sample_prompts(labels)
    assert batch_scope(samples, labels, draw) is None
    samples[1].set_metainfo(dict(exhaustive_labels=[3], annotated_labels=[3]))
    assert batch_scope(samples, labels, draw).offered.tolist() == [[True, True], [False, True]]


# Losses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('loss_grqo', GRQO)
@pytest.mark.parametrize('counts', [(2, 1), (3, 0, 5)])
@pytest.mark.parametrize('text', [{}, TEXT])
def test_loss_with_all_classes_verified_is_unchanged(build_tiny, make_batch, counts, loss_grqo, text):
    model = build_tiny(**{'model.bbox_head.loss_grqo': loss_grqo}, **text)
    if loss_grqo is not None:
        with_reference(model)
    inputs, samples = make_batch(counts)
    for sample in samples:
        sample.set_metainfo(dict(text=NAMES))
    # Compute losses and gradients without and with lists of verified classes.
    results = []
    for federated in (False, True):
        if federated:
            set_scopes(samples, [ALL] * len(counts))
        torch.manual_seed(3)
        losses = model.loss(inputs, samples)
        model.zero_grad()
        total(losses).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append(losses | gradients)
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


@pytest.mark.parametrize('loss_grqo', GRQO)
def test_loss_gives_unverified_pairs_no_gradient(build_tiny, make_batch, loss_grqo):
    """No decoder layer, denoising query or encoder token has a gradient for a pair that is not verified."""
    model = build_tiny(**{'model.bbox_head.loss_grqo': loss_grqo}).train()
    if loss_grqo is not None:
        with_reference(model)
    inputs, samples = make_batch((2, 2))
    set_labels(samples, [[0, 1], [2, 3]])
    # Image 0 was not annotated for classes 2 and 3. Image 1 was not annotated for class 0, does not show class 1, and
    # may show further instances of class 2.
    set_scopes(samples, [[0, 1], [1, 3]], [[0, 1], [1, 2, 3]])
    logits = watch_logits(model)
    losses, output = model.loss_and_output(inputs, samples)
    total(losses).backward()
    assert len(logits) == 3  # of the encoder and of two decoder layers
    gradients = [tensor.grad for tensor in logits]
    for gradient in gradients:
        assert (gradient[0, :, 2:] == 0).all()
        assert (gradient[1, :, 0] == 0).all()
    # Verified pairs have gradients: present classes, and class 1, which image 1 does not show.
    for gradient in gradients[1:]:
        assert all((gradient[0, :, k] != 0).all() for k in (0, 1))
        assert all((gradient[1, :, k] != 0).all() for k in (1, 3))
    # For class 2, only the query matched to its box, and denoising queries made from the box, have gradients.
    num_dn, groups = output.denoising
    for gradient in gradients[1:]:
        dn, queries = gradient[1, :num_dn, 2], gradient[1, num_dn:, 2]
        if loss_grqo is None:
            assert (queries != 0).sum() == 1
            assert (queries[queries != 0] < 0).all()
        assert (dn != 0).sum() == groups
        assert (dn[dn != 0] < 0).all()


@pytest.mark.parametrize('loss_grqo', GRQO)
def test_loss_does_not_lower_scores_of_incomplete_classes(build_tiny, make_batch, loss_grqo):
    """If the labels of all classes are incomplete, no classification gradient lowers a score."""
    # Freeze batch norm, so that the KL to an equal reference is zero.
    model = build_tiny(**{'model.bbox_head.loss_grqo': loss_grqo}).eval()
    if loss_grqo is not None:
        model.reference = ReferenceModel(copy.deepcopy(model).eval())
    inputs, samples = make_batch((2, 2))
    set_labels(samples, [[0, 1], [1, 2]])
    set_scopes(samples, [[], []], [[0, 1, 2]] * 2)
    logits = watch_logits(model)
    total(model.loss(inputs, samples)).backward()
    assert all((tensor.grad <= 1e-9).all() for tensor in logits)
    assert all((tensor.grad < 0).any() for tensor in logits[1:])


def test_loss_of_disjoint_sources_equals_separate_batches(build_tiny, make_batch):
    model = build_tiny().eval()
    inputs, samples = make_batch((2, 1))
    set_labels(samples, [[0, 1], [2]])
    set_scopes(samples, [[0, 1], [2, 3]])
    together = model.loss(inputs, samples)
    alone = [model.loss(inputs[i : i + 1], samples[i : i + 1]) for i in range(2)]
    for name, value in together.items():
        if 'dn_' not in name:  # denoising queries are random
            expected = (alone[0][name] * 2 + alone[1][name]) / 3
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_loss_of_a_batch_without_known_labels_is_zero(build_tiny, make_batch):
    """Without boxes and annotated prompts, losses are zero, and every parameter has a gradient."""
    model = build_tiny()
    inputs, samples = make_batch((0, 0))
    set_scopes(samples, [[1], []])
    losses = model.loss(inputs, samples)
    assert all(value == 0 for value in losses.values())
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    # With a box in one image, the image of another source still has no classification loss.
    inputs, samples = make_batch((1, 0))
    set_labels(samples, [[3], []])
    set_scopes(samples, [[3], [5]])
    alone = model.eval().loss(inputs[:1], samples[:1])
    both = model.loss(inputs, samples)
    torch.testing.assert_close(both['loss_cls'], alone['loss_cls'], rtol=1e-4, atol=1e-5)


def test_unverified_weight_counts_negatives_of_present_classes_in_part(build_tiny, make_batch):
    inputs, samples = make_batch((2, 0))
    set_labels(samples, [[0, 1], []])

    def class_loss(weight, scopes):
        set_scopes(samples, scopes)
        model = build_tiny(**{'model.train_cfg.unverified_weight': weight}).eval()
        for branch in model.bbox_head.cls_branches:  # initial scores of 0.01 would make negatives negligible
            torch.nn.init.zeros_(branch.bias)
        torch.manual_seed(1)
        return model.loss(inputs, samples)['loss_cls']

    # The first image shows both classes; the second was not annotated for either.
    unverified = [[], []]
    none, some, all_of_them = (class_loss(weight, unverified) for weight in (0.0, 0.25, 1.0))
    torch.testing.assert_close(some, 0.75 * none + 0.25 * all_of_them, rtol=1e-5, atol=1e-6)
    assert none < 0.9 * all_of_them


def test_unverified_weight_out_of_range_is_rejected(build_tiny):
    with pytest.raises(InputError, match=r'unverified_weight must be in \[0, 1\], got 2'):
        build_tiny(**{'model.train_cfg.unverified_weight': 2})


def test_reference_model_gets_the_same_offered_prompts(build_tiny, make_batch):
    model = build_tiny(**{'model.bbox_head.loss_grqo': dict(type='GRQOLoss')}).eval()
    model.reference = ReferenceModel(copy.deepcopy(model))
    inputs, samples = make_batch((2, 1))
    set_labels(samples, [[0, 1], [2]])
    set_scopes(samples, [[0, 1], [2]])
    assert model.loss(inputs, samples)['grqo_kl'] < 1e-9


# Parts of the losses ----------------------------------------------------------------------------------------


def scene(verified):
    """Predictions and targets for three prompts, and two images with a box of class 0 each."""
    generator = torch.Generator().manual_seed(1)
    boxes = [torch.tensor([[10.0, 10, 40, 30]])] * 2
    maps = [torch.tensor([[1.0, 0, 0]])] * 2
    targets = pad_targets(boxes, maps, [(64, 64)] * 2, verified)
    logits = torch.randn(1, 2, 12, 3, generator=generator)
    predicted = torch.rand(1, 2, 12, 4, generator=generator) * 0.4 + 0.2
    return logits, predicted, targets


def test_matching_cost_leaves_out_unverified_prompts():
    verified = torch.tensor([[True, False, True], [True, True, True]])
    logits, boxes, targets = scene(verified)
    cost = matching_cost(logits, boxes, targets)
    without = pad_targets([torch.tensor([[10.0, 10, 40, 30]])], [torch.tensor([[1.0, 0]])], [(64, 64)])
    torch.testing.assert_close(cost[:, :1], matching_cost(logits[:, :1, :, [0, 2]], boxes[:, :1], without))
    everything = scene(None)[2]
    assert torch.equal(cost[:, 1], matching_cost(logits, boxes, everything)[:, 1])
    assert len(hungarian_match(cost, targets).stage) == 2


def test_rewards_of_an_image_with_incomplete_labels_are_zero():
    logits, boxes, targets = scene(torch.tensor([[False, True, True], [True, False, True]]))
    rewards = rewards_from_cost(matching_cost(logits, boxes, targets), targets)
    assert (rewards[:, 0] == 0).all()
    assert (rewards[:, 1] != 0).all()
    groups = prompt_groups(logits[0], targets, min_group=1)
    gain = grouped_gain(
        matching_cost(logits, boxes, targets), targets, groups, torch.zeros(1, 2, 12), 0.5, lambda advantage: advantage
    )
    assert gain[0, 0] == 0
    assert gain[0, 1] != 0


def test_info_nce_contrasts_only_distinguishable_classes():
    visual, text = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.eye(6)[:4]
    scale = torch.tensor(1.5)
    apart = torch.block_diag(torch.ones(3, 3), torch.ones(1, 1)).bool()
    # Three classes are distinguishable. The fourth is not distinguishable from any other, and has loss 0.
    expected = symmetric_info_nce(visual[:3], text[:3], scale) * 3 / 4
    torch.testing.assert_close(symmetric_info_nce(visual, text, scale, apart), expected)
    everything = torch.ones(4, 4, dtype=torch.bool)
    assert torch.equal(symmetric_info_nce(visual, text, scale, everything), symmetric_info_nce(visual, text, scale))
