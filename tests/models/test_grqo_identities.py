"""Identities of GRQO's reward term and KL in docs/method.md, compared with autograd in double precision."""

import math

import pytest
import torch

from dinor1.models.losses import group_advantage, grqo_loss, objectness_kl

N, MUTED = 12, 4
KAPPA = (N - MUTED) / N
KEPT = torch.arange(N) < N - MUTED


def reward_term(rewards):
    """Mean F of the kept advantages over all queries, from the loss with alpha 1 and without KL."""
    objectness = torch.zeros(1, len(rewards), dtype=rewards.dtype)
    loss = grqo_loss(rewards[None, None], objectness, objectness, alpha=1.0, beta=0.0, num_mute=MUTED)
    return -loss.sum()


def gradient(rewards):
    rewards = rewards.clone().requires_grad_()
    return torch.autograd.grad(reward_term(rewards), rewards)[0]


def random_rewards(seed=0):
    return 3 * torch.randn(N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 5


def coefficients(rewards):
    """The closed form of N sigma dF/dr."""
    advantage = (rewards - rewards.mean()) / rewards.std()
    mean_kept = (advantage * KEPT).mean()
    return KEPT.double() - KAPPA - mean_kept * advantage * N / (N - 1)


@pytest.mark.parametrize('seed', range(3))
def test_reward_term_is_a_correlation_with_the_kept_queries(seed):
    rewards = random_rewards(seed)
    correlation = torch.corrcoef(torch.stack([rewards, KEPT.double()]))[0, 1]
    expected = math.sqrt(KAPPA * (1 - KAPPA)) * correlation * math.sqrt((N - 1) / N)
    torch.testing.assert_close(reward_term(rewards), expected, atol=1e-8, rtol=0)


def test_reward_term_is_bounded_by_the_share_of_kept_queries():
    # Rewards that depend only on muting reach the bound, for any difference between them.
    bound = math.sqrt(KAPPA * (1 - KAPPA) * (N - 1) / N)
    for distance in (1.0, 1000.0):
        assert reward_term(distance * KEPT.double()).item() == pytest.approx(bound, abs=1e-8)
    assert bound < 0.4715
    assert all(abs(reward_term(random_rewards(seed)).item()) < bound for seed in range(20))


@pytest.mark.parametrize(('shift', 'scale'), [(7.0, 1.0), (0.0, 4.0), (-3.0, 0.2)])
def test_reward_term_ignores_shift_and_scale_of_rewards(shift, scale):
    rewards = random_rewards()
    torch.testing.assert_close(reward_term(scale * rewards + shift), reward_term(rewards), atol=1e-8, rtol=0)


@pytest.mark.parametrize('seed', range(3))
def test_reward_term_gradient_equals_the_closed_form(seed):
    rewards = random_rewards(seed)
    torch.testing.assert_close(gradient(rewards), coefficients(rewards) / (N * rewards.std()), atol=1e-9, rtol=1e-7)


def test_reward_term_gradient_cannot_raise_the_mean_reward():
    found = gradient(random_rewards())
    assert found.abs().max() > 1e-3
    # Neither a shift of all rewards nor a change of their scale is part of the gradient.
    assert abs(found.sum().item()) < 1e-12
    assert abs((found * random_rewards()).sum().item()) < 1e-8


def test_reward_term_pushes_kept_queries_down_above_the_threshold():
    # One kept query is much better than the others, like a matched query. The kept queries are better than the muted.
    rewards = torch.tensor([9.0, 2, 2, 1, 1, 1, 1, 0, -1, -1, -1, -1], dtype=torch.float64)
    advantage = group_advantage(rewards, 0)
    mean_kept = reward_term(rewards)
    threshold = (1 - KAPPA) * (N - 1) / (mean_kept * N)
    pushed_down = gradient(rewards)[KEPT] < 0
    assert torch.equal(pushed_down, advantage[KEPT] > threshold)
    assert pushed_down.tolist() == [True] + 7 * [False]


def test_reward_term_pushes_average_queries_by_the_muted_share():
    # Two queries of average reward, the first kept and the last muted.
    rewards = torch.tensor([0.0, 1, -2, 3, 1, -1, 2, -1, -1, -1, -1, 0], dtype=torch.float64)
    found = gradient(rewards) * N * rewards.std()
    assert found[[0, -1]].tolist() == pytest.approx([1 / 3, -2 / 3], abs=1e-8)


def test_positive_advantages_alone_push_the_best_queries_down():
    # Use the quantiles of a normal distribution as normally distributed rewards.
    levels = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    rewards = torch.special.ndtri(levels).requires_grad_()
    advantage = group_advantage(rewards, 0)
    found = torch.autograd.grad(advantage.clamp(min=0).mean(), rewards)[0]
    positive = advantage.detach() > 0
    turning_point = advantage.detach()[positive & (found > 0)].max().item()
    assert turning_point == pytest.approx(math.sqrt(2 * math.pi) / 2, abs=5e-3)
    assert (found[advantage.detach() > turning_point + 1e-6] < 0).all()


def test_kl_with_own_exemplars_is_smallest_at_the_mean_objectness():
    # Objectness of one token under three draws of the reference's exemplars.
    drawn = torch.tensor([0.1, 0.3, 0.8], dtype=torch.float64)
    logit = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)

    def mean_kl(logit):
        return objectness_kl(logit.expand(1, 3), drawn.logit()[None]).mean()

    # The derivative by the logit is o (1 - o) (o - mean) / o^2.
    found = torch.autograd.grad(mean_kl(logit), logit)[0].item()
    assert found == pytest.approx((1 - 0.5) * (0.5 - 0.4) / 0.5, abs=1e-7)
    minimum = torch.tensor(0.4, dtype=torch.float64).logit().requires_grad_()
    assert abs(torch.autograd.grad(mean_kl(minimum), minimum)[0].item()) < 1e-7
    others = torch.linspace(0.05, 0.95, 19, dtype=torch.float64).logit()
    lowest = min(others, key=lambda value: mean_kl(value).item())
    assert lowest.sigmoid().item() == pytest.approx(0.4, abs=1e-9)
