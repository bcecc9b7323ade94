"""Ranking of the queries of each prompt, compared with numbers computed by hand."""

import copy
import math

import pytest
import torch

from dinor1.models import PromptRankingLoss, QualityAwareLoss
from dinor1.models.losses import (
    hungarian_match,
    pad_targets,
    quality_aware_loss,
    quality_weights,
    ranking_loss,
    ranking_sets,
)
from dinor1.models.losses.matching import Match
from dinor1.registry import MODELS
from dinor1.utils.errors import InputError
from tests.models.grqo_scenes import scene

YES, NO = True, False


def rank(logits, positive, negative, quality=None, group=None, num_groups=1, **settings):
    """Loss and gradient of entries that are given as lists."""
    logits = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    quality = torch.zeros_like(logits) if quality is None else torch.tensor(quality, dtype=torch.float64)
    group = torch.zeros(len(logits), dtype=torch.long) if group is None else torch.tensor(group)
    loss = ranking_loss(
        logits, torch.tensor(positive), torch.tensor(negative), quality.detach(), group, num_groups, **settings
    )
    return loss.item(), torch.autograd.grad(loss, logits)[0].tolist()


# Pure functions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_ranking_of_one_positive_has_gradients_of_a_softmax(temperature):
    # A matched query, two negatives, and a duplicate, which is neither.
    loss, gradient = rank(
        [1.0, 0.0, -1.0, 3.0], [YES, NO, NO, NO], [NO, YES, YES, NO], temperature=temperature, pair_weight=0.5
    )
    odds = [math.exp(-1 / temperature), math.exp(-2 / temperature)]
    total = 1 + sum(odds)
    assert loss == pytest.approx(temperature * math.log(total))
    assert gradient == pytest.approx([-sum(odds) / total, odds[0] / total, odds[1] / total, 0.0])


def test_ranking_of_two_positives_prefers_the_better_box():
    positive, negative, quality = [YES, YES, NO], [NO, NO, YES], [0.9, 0.5, 0.0]
    # Weights: the IoUs have mean 0.7 and deviation 0.2, so that A = 0.8 and -0.8 and w = 1.4 and 0.6.
    loss, gradient = rank([0.0, 0.0, 0.0], positive, negative, quality)
    assert loss == pytest.approx(math.log(2) + 0.5 * 0.4 * math.log(2))
    above, pair = 0.5 * 0.5, 0.5 * 0.4 * 0.5
    assert gradient == pytest.approx([-1.4 * above - pair, -0.6 * above + pair, 2 * above])
    # Without weights and pairs, both positives are treated equally.
    _, gradient = rank([0.0, 0.0, 0.0], positive, negative, quality, weighted=False, pair_weight=0.0)
    assert gradient == pytest.approx([-above, -above, 2 * above])


def test_ranking_pairs_need_a_difference_of_iou():
    positive, negative = [YES, YES], [NO, NO]
    assert rank([0.0, 1.0], positive, negative, [0.54, 0.5])[0] == 0
    assert rank([0.0, 1.0], positive, negative, [0.56, 0.5])[0] == pytest.approx(0.5 * 0.06 * math.log1p(math.exp(1.0)))


def test_ranking_averages_over_the_groups_with_positives():
    # Group 0 has a positive and a negative of equal score, group 1 only has negatives, and group 2 only has a positive.
    loss, gradient = rank(
        [2.0, 2.0, 5.0, 1.0], [YES, NO, NO, YES], [NO, YES, YES, NO], group=[0, 0, 1, 2], num_groups=4
    )
    assert loss == pytest.approx(math.log(2) / 2)
    assert gradient == pytest.approx([-0.25, 0.25, 0.0, 0.0])


@pytest.mark.parametrize(
    ('quality', 'expected'),
    [
        ([0.9], [1.0]),
        ([0.7, 0.7], [1.0, 1.0]),
        # Deviation 0.3 and A = 6/7 * (1, -1).
        ([0.9, 0.3], [1 + 3 / 7, 1 - 3 / 7]),
    ],
)
def test_quality_weights_have_mean_one(quality, expected):
    found = quality_weights(torch.tensor(quality).double(), torch.zeros(len(quality), dtype=torch.long), 1)
    assert found.tolist() == pytest.approx(expected)


def test_quality_weights_are_limited():
    quality = torch.tensor([1.0] + [0.0] * 8, dtype=torch.float64)
    found = quality_weights(quality, torch.zeros(9, dtype=torch.long), 1)
    # Mean 1/9 and deviation sqrt(8)/9: the first advantage is above 2, and its weight is limited to 2.
    low = 1 - 0.5 * (1 / 9) / (8**0.5 / 9 + 0.05)
    mean = (2 + 8 * low) / 9
    assert found.tolist() == pytest.approx([2 / mean] + [low / mean] * 8)


def test_ranking_is_stable_for_large_logits():
    loss, gradient = rank([-1e4, 1e4], [YES, NO], [NO, YES])
    assert loss == pytest.approx(2e4)
    assert gradient == pytest.approx([-1.0, 1.0])


def test_ranking_of_a_query_that_is_ahead_by_far_is_done():
    loss, gradient = rank([1e4, -math.inf, -1e4], [YES, NO, NO], [NO, NO, YES])
    assert loss == 0
    assert gradient == [0.0, 0.0, 0.0]


# Positives and negatives -----------------------------------------------------------------------------------


def hand_made(verified=None):
    """Two images of 100 pixels. The first shows objects of classes 0 and 1, the second none.

    Queries: 0 is matched to the object of class 0, 1 covers it too, 2 is matched to the object of class 1, 3 is
    background.
    """
    truth = torch.tensor([[0.0, 0, 40, 40], [60, 60, 100, 100]])
    targets = pad_targets([truth, truth[:0]], [torch.eye(3)[:2], torch.zeros(0, 3)], [(100, 100)] * 2, verified)
    # IoU of query 0: 0.8, of query 1: 0.75, of query 2: 1.
    corners = torch.tensor([[0.0, 0, 40, 32], [0, 0, 30, 40], [60, 60, 100, 100], [60, 0, 100, 40]]) / 100
    boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
    match = Match(*torch.tensor([[0, 0, 0, 0], [0, 0, 2, 1]]).unbind(-1))
    return boxes.expand(1, 2, -1, -1), targets, match


def test_ranking_sets_leave_out_duplicates_of_the_own_class_alone():
    boxes, targets, match = hand_made()
    sets = ranking_sets(boxes, targets, match, torch.ones(2, 3, dtype=torch.bool))
    assert sets.positive[0, 0].nonzero().tolist() == [[0, 0], [2, 1]]
    # Query 1 duplicates the object of class 0; for classes 1 and 2 it is a negative.
    assert sets.negative[0, 0].tolist() == [[NO, YES, YES], [NO, YES, YES], [YES, NO, YES], [YES, YES, YES]]
    assert sets.negative[0, 1].all()
    torch.testing.assert_close(sets.quality[0, 0], torch.tensor([0.8, 0.0, 1.0, 0.0]))
    # With a higher limit it is not a duplicate.
    assert ranking_sets(boxes, targets, match, torch.ones(2, 3, dtype=torch.bool), 0.76).negative[0, 0, 1, 0]


def test_ranking_sets_have_no_negatives_where_the_class_was_not_annotated():
    verified = torch.tensor([[NO, YES, YES], [YES, NO, YES]])
    boxes, targets, match = hand_made(verified)
    sets = ranking_sets(boxes, targets, match, torch.ones(2, 3, dtype=torch.bool))
    assert sets.positive[0, 0, 0, 0]
    assert not sets.negative[0, 0, :, 0].any()
    assert not sets.negative[0, 1, :, 1].any()
    assert sets.negative[0, 1, :, 0].all()


def test_ranking_sets_leave_out_prompts_that_are_not_offered():
    boxes, targets, match = hand_made()
    offered = torch.tensor([[YES, YES, NO], [NO, YES, YES]])
    sets = ranking_sets(boxes, targets, match, offered)
    assert not sets.negative[0, 0, :, 2].any()
    assert not sets.negative[0, 1, :, 0].any()


# The registered losses -------------------------------------------------------------------------------------


def inputs_of(labels=((0, 1, 1), (2,)), dtype=torch.float64, layers=2, prompts=3):
    (logits, boxes), cost, targets, _, _ = scene(labels=labels, dtype=dtype, layers=layers, prompts=prompts)
    offered = torch.ones(len(labels), prompts, dtype=torch.bool)
    return logits, boxes, targets, hungarian_match(cost, targets), offered


@pytest.mark.parametrize('weights', ['quality', 'uniform'])
def test_ranking_gradients_sum_to_zero_for_every_prompt(weights):
    logits, *rest = inputs_of()
    loss = PromptRankingLoss(weights=weights)(logits, *rest)
    assert loss.shape == (2,)
    gradient = torch.autograd.grad(loss.sum(), logits)[0].sum(dim=(1, 2))
    assert gradient.abs().max() < 1e-12
    # In one group of all prompts, only the total is zero.
    loss = PromptRankingLoss(weights=weights, groups='all')(logits, *rest)
    gradient = torch.autograd.grad(loss.sum(), logits)[0].sum(dim=(1, 2))
    assert gradient.sum().abs() < 1e-12
    assert gradient.abs().max() > 1e-3


def test_ranking_gradient_only_reaches_logits():
    logits, boxes, *rest = inputs_of()
    loss = PromptRankingLoss()(logits, boxes, *rest).sum()
    assert torch.autograd.grad(loss, boxes, allow_unused=True)[0] is None


def test_ranking_groups_are_the_same_for_a_single_prompt():
    inputs = inputs_of(labels=((0, 0), (0,)), prompts=1)
    expected = PromptRankingLoss()(*inputs)
    for groups in ('all', 'random'):
        torch.testing.assert_close(PromptRankingLoss(groups=groups)(*inputs), expected, atol=1e-12, rtol=0)


def test_ranking_with_random_groups_compares_other_queries():
    inputs = inputs_of()
    values = torch.stack([PromptRankingLoss(groups='random')(*inputs) for _ in range(3)])
    assert len(values[:, 0].unique()) == 3
    assert not torch.isclose(values, PromptRankingLoss()(*inputs)).any()


def test_ranking_weight_scales_the_loss():
    inputs = inputs_of()
    torch.testing.assert_close(PromptRankingLoss(loss_weight=3.0)(*inputs), 3 * PromptRankingLoss()(*inputs))


@pytest.mark.parametrize('loss', [PromptRankingLoss(), QualityAwareLoss()])
def test_ranking_without_objects_has_no_positives(loss):
    logits, *rest = inputs_of(labels=((), ()))
    value = loss(logits, *rest)
    gradient = torch.autograd.grad(value.sum(), logits)[0]
    assert gradient.isfinite().all()
    if isinstance(loss, PromptRankingLoss):
        assert value.tolist() == [0.0, 0.0]
        assert not gradient.any()
    else:
        assert (gradient > 0).all()


@pytest.mark.parametrize('loss', [PromptRankingLoss(), QualityAwareLoss()])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_ranking_in_half_precision_is_that_of_rounded_logits(loss, dtype):
    logits, boxes, targets, match, offered = inputs_of(dtype=torch.float32)
    offered[1, 0] = False
    logits = logits.detach().to(dtype)
    logits[:, 1, :, 0] = -math.inf
    logits.requires_grad_()
    value = loss(logits, boxes, targets, match, offered)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.float(), boxes, targets, match, offered))
    assert torch.autograd.grad(value.sum(), logits)[0].isfinite().all()


def test_quality_aware_loss_has_the_values_computed_by_hand():
    logits = torch.tensor([[0.0], [math.log(3)], [5.0]], dtype=torch.float64, requires_grad=True)
    # A matched query of IoU 0.25, whose target is 0.125; a negative of probability 3/4; and a duplicate.
    positive, negative = torch.tensor([[YES], [NO], [NO]]), torch.tensor([[NO], [YES], [NO]])
    quality = torch.tensor([0.25, 0.0, 0.9], dtype=torch.float64)
    loss = quality_aware_loss(logits, positive, negative, quality, gamma=1.5)
    assert loss.item() == pytest.approx(math.log(2) + 0.75**1.5 * math.log(4))
    gradient = torch.autograd.grad(loss, logits)[0].flatten()
    assert gradient.tolist() == pytest.approx([0.5 - 0.125, 0.75**1.5 * 0.75, 0.0])


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(groups='image'), 'groups must be one of prompt, all, random'),
        (dict(weights='other'), "weights must be 'quality' or 'uniform'"),
        (dict(temperature=0.0), 'expected loss_weight >= 0'),
        (dict(loss_weight=float('nan')), 'expected loss_weight >= 0'),
        (dict(duplicate_iou=1.5), 'duplicate_iou must be in'),
        (dict(type='QualityAwareLoss', gamma=0.0), 'QualityAwareLoss: expected'),
    ],
    ids=str,
)
def test_ranking_rejects_settings_out_of_range(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        MODELS.build(dict(type='PromptRankingLoss') | settings)
    assert '\n' not in str(caught.value)


# In the detector -------------------------------------------------------------------------------------------


def losses_of(model, batch):
    torch.manual_seed(0)
    return copy.deepcopy(model).loss(*copy.deepcopy(batch))


@pytest.mark.parametrize('kind', ['PromptRankingLoss', 'QualityAwareLoss'])
@pytest.mark.parametrize('counts', [(2, 1), (3, 0), (0, 0)])
def test_detector_adds_the_ranking_to_its_losses(build_tiny, make_batch, kind, counts):
    model = build_tiny(**{'model.bbox_head.type': 'GroupRelativeHead', 'model.bbox_head.loss_ranking': dict(type=kind)})
    batch = make_batch(counts)
    found = losses_of(model, batch)
    plain = build_tiny()
    # The loss has no weights, so that checkpoints of both models fit each other.
    plain.load_state_dict(model.state_dict())
    expected = losses_of(plain, batch)
    names = {'d0.loss_ranking', 'loss_ranking', 'enc_loss_ranking'}
    assert found.keys() - expected.keys() == names
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(found[name].isfinite() for name in names)
    if any(counts):
        assert all(found[name] > 0 for name in names)
