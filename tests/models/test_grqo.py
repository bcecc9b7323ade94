"""Properties of GRQO's formulas, see the docstring of dinor1.models.losses.grqo."""

import pytest
import torch

from dinor1.models import GRQOLoss
from dinor1.models.losses import (
    group_advantage,
    grqo_loss,
    matching_cost,
    objectness_kl,
    pad_targets,
    query_rewards,
    rewards_from_cost,
)
from dinor1.utils.errors import InputError


def scene(counts=(2, 3), layers=2, queries=9, prompts=4, seed=0, dtype=torch.float64):
    """Random predictions and ground truth."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, len(counts), queries, prompts, generator=g, dtype=dtype)
    boxes = torch.rand(layers, len(counts), queries, 4, generator=g, dtype=dtype) * 0.5 + 0.2
    targets = []
    for count in counts:
        corner = torch.rand(count, 2, generator=g, dtype=dtype) * 40
        size = torch.rand(count, 2, generator=g, dtype=dtype) * 30 + 5
        labels = torch.randint(0, prompts, (count,), generator=g)
        targets.append(
            dict(boxes=torch.cat([corner, corner + size], 1), positive_map=torch.eye(prompts, dtype=dtype)[labels])
        )
    return logits, boxes, targets, torch.tensor([[80, 100]] * len(counts))


def test_grqo_reward_term_without_mute_is_zero_without_gradient():
    logits, boxes, targets, img_hw = scene()
    logits.requires_grad_()
    boxes.requires_grad_()
    rewards = query_rewards(logits, boxes, targets, img_hw)
    objectness = torch.zeros(2, 9, dtype=torch.float64)
    loss = grqo_loss(rewards, objectness, objectness, alpha=1.0, beta=0.0, num_mute=0)
    # Sums of nine numbers of order one in float64 cancel to about 1e-16.
    assert loss.abs().max() < 1e-14
    gradients = torch.autograd.grad(loss.sum(), (logits, boxes))
    assert max(g.abs().max() for g in gradients) < 1e-14


def test_grqo_reward_term_with_mute_has_a_gradient():
    logits, boxes, targets, img_hw = scene()
    logits.requires_grad_()
    rewards = query_rewards(logits, boxes, targets, img_hw)
    objectness = torch.zeros(2, 9, dtype=torch.float64)
    loss = grqo_loss(rewards, objectness, objectness, alpha=1.0, beta=0.0, num_mute=3)
    assert torch.autograd.grad(loss.sum(), logits)[0].abs().max() > 1e-3


def test_grqo_loss_passes_gradcheck():
    logits, boxes, targets, img_hw = scene(counts=(2,), layers=1, queries=4, prompts=2)

    def loss(logits, boxes):
        rewards = query_rewards(logits, boxes, targets, img_hw)
        objectness = torch.zeros(1, 4, dtype=torch.float64)
        return grqo_loss(rewards, objectness, objectness, alpha=1.0, beta=0.0, num_mute=1)

    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), boxes.requires_grad_()))


def test_group_advantage_is_normalised_and_follows_a_permutation():
    rewards = torch.randn(3, 2, 20, dtype=torch.float64)
    advantage = group_advantage(rewards, 0)
    torch.testing.assert_close(advantage.mean(-1), torch.zeros(3, 2, dtype=torch.float64), atol=1e-12, rtol=0)
    # The standard deviation differs from one only by eps, 2e-9.
    torch.testing.assert_close(advantage.std(-1), torch.ones(3, 2, dtype=torch.float64), atol=1e-8, rtol=0)
    order = torch.randperm(20)
    torch.testing.assert_close(group_advantage(rewards[..., order], 0), advantage[..., order])


def test_group_advantage_mutes_the_last_queries():
    advantage = group_advantage(torch.randn(1, 1, 9), 3)
    assert torch.equal(advantage[..., 6:], torch.zeros(1, 1, 3))
    assert (advantage[..., :6] != 0).all()


@pytest.mark.parametrize('num_mute', [-1, 9, 10])
def test_group_advantage_rejects_muting_of_all_queries(num_mute):
    with pytest.raises(ValueError, match='num_mute'):
        group_advantage(torch.randn(1, 1, 9), num_mute)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('counts', [(0, 0), (0, 1), (1, 5)])
def test_grqo_loss_of_degenerate_groups_is_finite(counts, dtype):
    logits, boxes, targets, img_hw = scene(counts=counts, dtype=torch.float32)
    logits = (20 * logits).to(dtype).requires_grad_()
    boxes = boxes.to(dtype).requires_grad_()
    # Ratios of probabilities are up to about 1e4; far beyond, the gradient of the KL exceeds the range of float16.
    generator = torch.Generator().manual_seed(0)
    objectness, ref = 4 * torch.randn(2, 2, 9, generator=generator)
    objectness = objectness.to(dtype).requires_grad_()
    rewards = query_rewards(logits, boxes, targets, img_hw)
    loss = grqo_loss(rewards, objectness, ref, num_mute=3)
    gradients = torch.autograd.grad(loss.sum(), (logits, boxes, objectness))
    assert loss.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize('queries', [1, 5])
def test_group_advantage_of_equal_rewards_is_zero(queries):
    rewards = torch.full((1, 1, queries), -3.3).requires_grad_()
    advantage = group_advantage(rewards, 0)
    advantage.sum().backward()
    assert torch.equal(advantage, torch.zeros_like(advantage))
    assert torch.equal(rewards.grad, torch.zeros_like(rewards))


def test_query_rewards_ignore_prompts_that_are_not_offered():
    logits, boxes, targets, img_hw = scene()
    padded = torch.cat([logits, torch.full((2, 2, 9, 2), float('-inf'), dtype=logits.dtype)], -1).requires_grad_()
    wider = [dict(t, positive_map=torch.nn.functional.pad(t['positive_map'], (0, 2))) for t in targets]
    rewards = query_rewards(padded, boxes, wider, img_hw)
    # A padded column costs -log(1 + 1e-12), the matcher's eps.
    torch.testing.assert_close(rewards, query_rewards(logits, boxes, targets, img_hw), atol=1e-10, rtol=0)
    assert torch.autograd.grad(rewards.sum(), padded)[0].isfinite().all()


def test_rewards_from_cost_equal_the_loop_of_the_paper():
    logits, boxes, targets, img_hw = scene(counts=(2, 0, 4))
    padded = pad_targets([t['boxes'] for t in targets], [t['positive_map'] for t in targets], img_hw)
    cost = matching_cost(logits, boxes, padded)
    rewards = rewards_from_cost(cost, padded)
    for layer in range(2):
        for image, target in enumerate(targets):
            for query in range(9):
                count = len(target['boxes'])
                expected = -min(cost[layer, image, query, j] for j in range(count)) if count else 0.0
                assert rewards[layer, image, query] == expected


def test_objectness_kl_is_positive_and_passes_gradcheck():
    a, b = torch.randn(2, 4, 50, dtype=torch.float64)
    assert (objectness_kl(a, b) > 0).all()
    assert torch.equal(objectness_kl(a, a), torch.zeros_like(a))
    small = a[:1, :6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objectness_kl(x, b[:1, :6]), small)


def test_objectness_kl_is_accurate_in_float32():
    logits = torch.randn(100)
    moved = logits + 1e-3
    exact = objectness_kl(moved.double(), logits.double())
    # Here, the error of the direct formula rho - log(rho) - 1 is 10 % and more.
    torch.testing.assert_close(objectness_kl(moved, logits).double(), exact, rtol=2e-3, atol=1e-10)


def test_grqo_loss_gives_the_reference_no_gradient():
    ref = torch.zeros(1, 6, requires_grad=True)
    loss = grqo_loss(torch.randn(1, 1, 6), torch.ones(1, 6, requires_grad=True), ref, num_mute=2)
    assert torch.autograd.grad(loss.sum(), ref, allow_unused=True)[0] is None


def test_policy_objective_equals_hand_computation():
    rewards = torch.tensor([[[1.0, 0.0, -1.0]]], dtype=torch.float64, requires_grad=True)
    logits = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    loss = grqo_loss(rewards, logits, logits.detach(), alpha=2.0, beta=0.0, num_mute=1, objective='policy')
    # Rewards 1, 0 and -1 have mean 0 and standard deviation 1: they are the advantages, of which the last is muted.
    expected = -2.0 * (1.0 * logits[0, 0].sigmoid().log()) / 3
    torch.testing.assert_close(loss, expected.detach().reshape(1))
    assert torch.autograd.grad(loss.sum(), rewards, allow_unused=True, retain_graph=True)[0] is None
    gradient = torch.autograd.grad(loss.sum(), logits)[0]
    torch.testing.assert_close(gradient[0, 0], -2.0 / 3 * (1 - logits[0, 0].detach().sigmoid()))


def test_clipped_objective_has_no_gradient_beyond_the_clip():
    rewards = torch.tensor([[[1.0, 0.0, -1.0]]])
    logits = torch.tensor([[2.0, 0.0, 0.0]], requires_grad=True)
    ref = torch.tensor([[-2.0, 0.0, 0.0]])
    loss = grqo_loss(rewards, logits, ref, alpha=1.0, beta=0.0, num_mute=1, objective='clipped')
    # The ratio of the first query is far above 1.28: it is clipped and gives no gradient.
    torch.testing.assert_close(loss, torch.tensor([-1.28 / 3]))
    assert torch.autograd.grad(loss.sum(), logits)[0][0, 0] == 0


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        (dict(mute=0.0), 'identically zero'),
        (dict(objective='other'), 'objective'),
        (dict(alpha=-1.0), 'alpha'),
        (dict(mute=1.0), 'mute'),
        (dict(eps_low=1.0), 'eps_low'),
        (dict(eps_high=-0.1), 'eps_high'),
    ],
)
def test_grqo_loss_rejects_invalid_settings(settings, text):
    with pytest.raises(InputError, match=text):
        GRQOLoss(**settings)


def test_num_mute_scales_with_the_queries_and_may_not_be_zero():
    assert GRQOLoss().num_mute(900) == 300
    assert GRQOLoss().num_mute(40) == 13
    with pytest.raises(InputError, match='vanish'):
        GRQOLoss().num_mute(1)
    assert GRQOLoss(alpha=0.0, mute=0.0).num_mute(40) == 0
