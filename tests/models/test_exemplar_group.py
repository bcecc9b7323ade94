"""Exemplars that score the queries as additional columns: draw, rewards, weights, loss, and no effect on the image."""

import copy
import math

import pytest
import torch

from dinor1.models import ExemplarGroupLoss
from dinor1.models.losses import ExemplarColumns, exemplar_group_loss, exemplar_rewards, exemplar_weights
from dinor1.models.prompts import append_hidden, draw_exemplar_group, split_hidden
from dinor1.registry import MODELS
from dinor1.structures import PromptBatch
from dinor1.utils.errors import InputError

YES, NO = True, False


# Draw ------------------------------------------------------------------------------------------------------


def test_exemplar_group_draws_boxes_of_the_class_without_replacement():
    labels = [torch.tensor([4, 7, 4]), torch.tensor([], dtype=torch.long), torch.tensor([4, 9])]
    seen = set()
    for _ in range(40):
        group = draw_exemplar_group(labels, size=2)
        assert group.valid.tolist() == [[YES, YES], [YES, NO], [YES, NO]]
        # Boxes 0, 2 and 3 have class 4, 1 has class 7, and 4 has class 9.
        seen.add(tuple(group.box[0].tolist()))
        assert group.box[1:, 0].tolist() == [1, 4]
        assert group.image[:, 0].tolist()[1:] == [0, 2]
        assert torch.equal(group.image[0], torch.tensor([0, 0, 0, 2, 2])[group.box[0]])
    assert seen == {(i, j) for i in (0, 2, 3) for j in (0, 2, 3) if i != j}


def test_exemplar_group_larger_than_the_batch():
    group = draw_exemplar_group([torch.tensor([3])], size=4)
    assert group.box.shape == group.image.shape == (1, 4)
    assert group.valid.tolist() == [[YES, NO, NO, NO]]


# Rewards and weights ---------------------------------------------------------------------------------------


def test_exemplar_reward_is_the_advantage_in_loss_over_the_others():
    loss = torch.tensor([[1.0, 3.0], [2.0, 2.0], [5.0, 1.0]])
    label = torch.tensor([0, 0, 2])
    counted = torch.ones(3, 2, dtype=torch.bool)
    assert exemplar_rewards(loss, counted, label, 3).tolist() == [[0.5, -0.5], [0.0, 0.0], [-2.0, 2.0]]
    # A more difficult object changes nothing.
    harder = loss + torch.tensor([[7.0], [0.0], [1.0]])
    assert exemplar_rewards(harder, counted, label, 3).tolist() == [[0.5, -0.5], [0.0, 0.0], [-2.0, 2.0]]


def test_exemplar_reward_leaves_out_objects_of_the_own_image():
    loss = torch.tensor([[1.0, 3.0, 5.0], [2.0, 2.0, 5.0]])
    # The first exemplar lies on the image of the first object, where it is best.
    counted = torch.tensor([[NO, YES, YES], [YES, YES, YES]])
    found = exemplar_rewards(loss, counted, torch.zeros(2, dtype=torch.long), 1)
    assert found.tolist() == [[1.0, (1.0 + 1.0) / 2, (-1.0 - 2.0) / 2]]


def test_exemplar_weights_are_larger_for_weak_exemplars():
    rewards, valid = torch.tensor([[0.5, -0.5]]).double(), torch.tensor([[YES, YES]])
    # Deviation 0.5, mean loss 2: A = 0.5 / 0.7.
    strong = 2 / (1 + math.exp(2 * 0.5 / 0.7))
    found = exemplar_weights(rewards, torch.tensor([2.0]).double(), valid)
    assert found[0].tolist() == pytest.approx([strong, 2 - strong])
    flipped = exemplar_weights(rewards, torch.tensor([2.0]).double(), valid, kind='flipped')
    assert flipped[0].tolist() == pytest.approx([2 - strong, strong])
    warm = exemplar_weights(rewards, torch.tensor([2.0]).double(), valid, tau=2.0)
    assert warm[0, 0].item() == pytest.approx(2 / (1 + math.exp(0.5 / 0.7)))


def test_exemplar_weights_are_limited_and_have_mean_one():
    rewards = torch.tensor([[9.0, 0.0, 0.0, -9.0]]).double()
    found = exemplar_weights(rewards, torch.zeros(1).double(), torch.ones(1, 4, dtype=torch.bool), tau=0.1)
    # Without the limits 2 and 0.25, the last exemplar would have all the weight.
    mean = (3 * 0.25 + 2) / 4
    assert found[0].tolist() == pytest.approx([0.25 / mean] * 3 + [2 / mean])


@pytest.mark.parametrize('kind', ['advantage', 'flipped', 'shuffled', 'uniform'])
def test_exemplar_weights_of_small_groups(kind):
    rewards = torch.tensor([[3.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    valid = torch.tensor([[YES, NO], [NO, NO], [YES, YES]])
    found = exemplar_weights(rewards, torch.zeros(3), valid, kind=kind)
    # One exemplar, none, and two that are alike.
    torch.testing.assert_close(found, valid.float())


def test_exemplar_weights_shuffled_keep_the_values_of_every_class():
    rewards = torch.randn(3, 4)
    valid = torch.tensor([[YES] * 4, [YES, YES, YES, NO], [YES] * 4])
    scale = torch.ones(3)
    expected = exemplar_weights(rewards, scale, valid)
    found = [exemplar_weights(rewards, scale, valid, kind='shuffled') for _ in range(10)]
    for weights in found:
        torch.testing.assert_close(weights.sort(1).values, expected.sort(1).values)
        assert weights[1, 3] == 0
    assert len({tuple(weights.flatten().tolist()) for weights in found}) > 5


# Loss ------------------------------------------------------------------------------------------------------


def scene():
    """Two images, three queries, one class with two exemplars, both on the second image.

    Query 0 of the first image and query 2 of the second are matched.
    """
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, 0.5, 0.5, -2.0, 0.0, 0.0, 0.0, 2.0, 1.0], dtype=torch.float64)
    positive = torch.zeros(2, 3, 1, dtype=torch.bool)
    positive[0, 0] = positive[1, 2] = True
    columns = ExemplarColumns(torch.zeros(2, 1, 2, 4), torch.tensor([[1, 1]]), torch.tensor([[YES, YES]]))
    return logits.reshape(2, 3, 1, 2).requires_grad_(), positive, columns


def test_exemplar_consistency_draws_probabilities_to_their_mean():
    logits, positive, columns = scene()
    judged = torch.ones(2, 1, dtype=torch.bool)
    loss = exemplar_group_loss(logits, logits * 0, positive, judged, columns, column_weight=0.0)
    p = torch.tensor([0.0, 1.0], dtype=torch.float64).sigmoid()
    # The object on the exemplars' own image does not count.
    assert loss.item() == pytest.approx(0.5 * (p - p.mean()).square().mean().item())
    gradient = torch.autograd.grad(loss, logits)[0]
    expected = torch.zeros_like(logits)
    expected[0, 0, 0] = 0.5 * (p - p.mean()) * p * (1 - p)
    torch.testing.assert_close(gradient, expected)


def test_exemplar_columns_have_weights_and_leave_out_their_image():
    logits, positive, columns = scene()
    focal = torch.full_like(logits, 1.0)
    focal.data[0, 0, 0] = torch.tensor([1.0, 3.0])
    focal.requires_grad_()
    judged = torch.ones(2, 1, dtype=torch.bool)
    loss = exemplar_group_loss(logits, focal, positive, judged, columns, consistency_weight=0.0)
    # R = 1 and -1, deviation 1, mean loss 2, A = 1 / 1.2; one positive per column.
    strong = 2 / (1 + math.exp(2 / 1.2))
    assert loss.item() == pytest.approx((strong * 3 + (2 - strong) * 5) / 2)
    gradient = torch.autograd.grad(loss, focal)[0]
    assert gradient[0, :, 0, 0].tolist() == pytest.approx([strong / 2] * 3)
    assert gradient[0, :, 0, 1].tolist() == pytest.approx([(2 - strong) / 2] * 3)
    assert not gradient[1].any()


def test_exemplar_columns_have_no_negatives_where_the_class_was_not_annotated():
    logits, positive, columns = scene()
    focal = torch.ones_like(logits).requires_grad_()
    loss = exemplar_group_loss(logits, focal, positive, torch.zeros(2, 1, dtype=torch.bool), columns)
    gradient = torch.autograd.grad(loss, focal)[0]
    assert gradient.nonzero().tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize('valid', [[NO, NO], [YES, NO], [YES, YES]])
@pytest.mark.parametrize('matched', [YES, NO])
def test_exemplar_group_without_exemplars_or_objects_is_finite(valid, matched):
    logits, positive, columns = scene()
    columns = columns._replace(valid=torch.tensor([valid]))
    positive = positive & matched
    focal = logits.square()
    loss = exemplar_group_loss(logits, focal, positive, torch.ones(2, 1, dtype=torch.bool), columns)
    gradient = torch.autograd.grad(loss, logits)[0]
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert bool(gradient.any()) == any(valid)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_exemplar_group_loss_in_half_precision_is_that_of_rounded_logits(dtype):
    logits, positive, columns = scene()
    judged = torch.ones(2, 1, dtype=torch.bool)
    half = logits.detach().to(dtype)[None]
    found = ExemplarGroupLoss(loss_weight=3.0)(half, half.abs(), positive[None], judged, columns)
    expected = exemplar_group_loss(half[0].float(), half[0].float().abs(), positive, judged, columns)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, 3 * expected[None])


@pytest.mark.parametrize(
    'settings',
    [dict(weights='other'), dict(group_size=0), dict(tau=0.0), dict(column_weight=-1.0), dict(loss_weight=math.nan)],
    ids=str,
)
def test_exemplar_group_rejects_settings_out_of_range(settings):
    with pytest.raises(InputError, match='^ExemplarGroupLoss: ') as caught:
        MODELS.build(dict(type='ExemplarGroupLoss') | settings)
    assert '\n' not in str(caught.value)


# In the detector -------------------------------------------------------------------------------------------

LOSS = {
    'model.bbox_head.type': 'GroupRelativeHead',
    'model.bbox_head.loss_exemplar_group': dict(type='ExemplarGroupLoss'),
}
SELECTIVE = dict(
    _delete_=True,
    type='SelectiveEncoder',
    num_layers=2,
    num_fusion_layers=1,
    fusion_threshold=0.0,
    fusion=dict(init_values=0.5),
)


def losses_of(model, batch):
    torch.manual_seed(0)
    return copy.deepcopy(model).loss(*copy.deepcopy(batch))


@pytest.mark.parametrize('encoder', [{}, {'model.encoder': SELECTIVE}], ids=['full', 'selective'])
def test_hidden_prompts_attend_to_the_image_without_changing_it(build_tiny, make_batch, encoder):
    model = build_tiny(**encoder).eval()
    inputs, samples = make_batch((1, 1))
    features = model.encode_image(inputs, samples)
    prompts = PromptBatch.shared(torch.randn(3, 32), 2)
    # The first hidden prompt is one of those offered, the second has an enormous embedding.
    extra = torch.stack([prompts.embeddings[0, 1], 1e3 * torch.randn(32)])
    expected = model.encoder(features, prompts)
    found, refined = split_hidden(model.encoder(features, append_hidden(prompts, extra)), 3)
    torch.testing.assert_close(found.memory, expected.memory, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.prompts.embeddings, expected.prompts.embeddings, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.prompts.mask, expected.prompts.mask)
    assert torch.equal(found.prompts.groups, expected.prompts.groups)
    assert [gate.shape for gate in found.gates] == [gate.shape for gate in expected.gates]
    assert [x.shape for x in found.gate_logits] == [x.shape for x in expected.gate_logits]
    # The image refines it like the offered prompt.
    torch.testing.assert_close(refined[:, 0], expected.prompts.embeddings[:, 1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(refined[0, 0], refined[1, 0], atol=1e-4)


@pytest.mark.parametrize('counts', [(3, 3), (3, 0), (0, 0)])
def test_exemplar_group_loss_is_added_to_the_losses(build_tiny, make_batch, counts):
    plain, model = build_tiny(), build_tiny(**LOSS)
    model.load_state_dict(plain.state_dict())
    inputs, samples = make_batch(counts)
    for sample in samples:
        sample.gt_instances.labels = torch.arange(len(sample.gt_instances.labels)) % 2
    expected, found = losses_of(plain, (inputs, samples)), losses_of(model, (inputs, samples))
    names = {'d0.loss_exemplar_group', 'loss_exemplar_group'} if any(counts) else set()
    assert found.keys() - expected.keys() == names
    assert all(value.isfinite() for value in found.values())
    # Query selection sees the same prompts; denoising draws other noise afterwards.
    torch.testing.assert_close(found['enc_loss_cls'], expected['enc_loss_cls'], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found['loss_cls'], expected['loss_cls'], atol=1e-5, rtol=1e-5)


def test_exemplar_group_loss_trains_prompt_encoder_and_decoder(build_tiny, make_batch):
    model = build_tiny(**LOSS)
    inputs, samples = make_batch((3, 3))
    for sample in samples:
        sample.gt_instances.labels = torch.zeros(3, dtype=torch.long)
    model.loss(inputs, samples)['loss_exemplar_group'].backward()
    assert model.prompt_encoder.content_query.grad.abs().sum() > 0
    assert model.decoder.layers[0].ffn.layers[1].weight.grad.abs().sum() > 0


def test_exemplar_group_of_one_image_has_nothing_to_compare(build_tiny, make_batch):
    losses = build_tiny(**LOSS).loss(*make_batch((3, 0)))
    # Every column is trained by the other image, which only has negatives.
    assert losses['loss_exemplar_group'] > 0
    losses = build_tiny(**LOSS).loss(*make_batch((3,)))
    assert losses['loss_exemplar_group'] == 0


@pytest.mark.parametrize(
    'prompts',
    [
        {'model.prompts.encoder': dict(type='AggregatingPromptEncoder')},
        {'model.prompts.prompt_gather': 'world', 'model.prompts.prompt_sampling': 'class_prototype'},
    ],
    ids=['aggregating', 'world'],
)
def test_exemplar_group_rejects_prompts_of_several_boxes(build_tiny, prompts):
    with pytest.raises(InputError, match=r'^model.bbox_head.loss_exemplar_group compares'):
        build_tiny(**LOSS, **prompts)
