"""GRQO with a group per prompt, compared with a loop that follows the definition."""

import copy
import math

import pytest
import torch

from dinor1.models import GRQOLoss, ReferenceModel
from dinor1.models.losses import grqo_loss, matching_cost, pad_targets, rewards_from_cost
from dinor1.models.losses.prompt_groups import MIN_GROUP, grouped_advantage, one_sided, prompt_groups, prompt_rewards
from dinor1.utils.errors import InputError
from tests.models.grqo_scenes import per_layer, scene

PROMPT = dict(groups='prompt', one_sided_kl=True)


def loop(loss, cost, targets, tokens, ref):
    """Losses (L,) by the definition, one query at a time."""
    layers = []
    for layer_cost in cost:
        images = []
        for b, image_cost in enumerate(layer_cost):
            count = int(targets.valid[b].sum())
            labels = targets.positive_map[b, :count].argmax(-1).tolist()
            kappa = tokens[b].argmax(-1).tolist()
            o = tokens[b].amax(-1).sigmoid()
            queries = range(len(kappa))
            present = sorted(set(labels))

            def advantages(group, muted, objects, image_cost=image_cost):
                rewards = torch.stack([-min(image_cost[q, j] for j in objects) for q in group])
                normed = (rewards - rewards.mean()) / (rewards.std() + 2e-9)
                return normed[: len(group) - muted].sum() / len(group)

            # Average the gain over the present prompts, in groups by prompt or in the group of the image.
            gain = cost.new_zeros(())
            for k in present:
                group = [q for q in queries if kappa[q] == k]
                if len(group) >= MIN_GROUP:
                    objects = [j for j in range(count) if labels[j] == k]
                    gain = gain + advantages(group, math.floor(len(group) * loss.mute + 1e-6), objects)
                else:
                    gain = gain + advantages(list(queries), loss.num_mute(len(kappa)), range(count))
            gain = gain / max(len(present), 1)
            # Average the KL over the queries.
            kl = cost.new_zeros(())
            for q in queries:
                rho = (ref[b, q].sigmoid() + 2e-9) / (o[q] + 2e-9)
                if not loss.one_sided_kl or kappa[q] in present or o[q] > ref[b, q].sigmoid():
                    kl = kl + (rho - rho.log() - 1) / len(kappa)
            images.append(-loss.alpha * gain + loss.beta * kl)
        layers.append(torch.stack(images).mean())
    return torch.stack(layers)


@pytest.mark.parametrize('labels', [((0, 1, 1), (2,)), ((), (0, 0)), ((2, 1, 0), ())])
@pytest.mark.parametrize('switches', [PROMPT, dict(groups='prompt')])
@pytest.mark.parametrize('queries', [8, 30])
def test_prompt_groups_loss_equals_the_loop(labels, switches, queries):
    """With 8 queries and 3 prompts, most groups are too small and fall back to the group of the image."""
    leaves, cost, targets, tokens, ref = scene(labels, queries=queries)
    loss = GRQOLoss(alpha=0.7, beta=0.3, **switches)
    found, expected = (function(loss, cost, targets, tokens, ref) for function in (per_layer, loop))
    # Sums of some dozens of numbers of order one in float64.
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    ours, theirs = (
        torch.autograd.grad(value.sum(), (*leaves, tokens), retain_graph=True) for value in (found, expected)
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=1e-9)


def test_scenes_have_prompts_with_and_without_a_group():
    groups = [prompt_groups(scene(queries=q)[3], scene(queries=q)[2]) for q in (8, 30)]
    assert groups[1].own.sum() == 3
    assert groups[0].own.sum() < groups[0].present.sum() == 3


def test_prompt_groups_of_one_present_prompt_give_the_published_loss():
    _, cost, targets, tokens, ref = scene(labels=((0, 0), (0,)), prompts=1)
    expected = grqo_loss(rewards_from_cost(cost, targets), tokens[..., 0], ref, alpha=0.5, beta=0.2, num_mute=10)
    torch.testing.assert_close(per_layer(GRQOLoss(alpha=0.5, beta=0.2, **PROMPT), cost, targets, tokens, ref), expected)


def test_grqo_loss_default_is_the_published_loss():
    _, cost, targets, tokens, ref = scene()
    expected = grqo_loss(rewards_from_cost(cost, targets), tokens.amax(-1), ref, num_mute=10)
    assert torch.equal(per_layer(GRQOLoss(), cost, targets, tokens, ref), expected)


@pytest.mark.parametrize('objective', ['contrast', 'policy', 'clipped'])
def test_prompt_groups_that_are_too_small_give_the_published_objective(objective):
    """With five queries, no group reaches the minimum size, and the gain is that of the group of the image."""
    _, cost, targets, tokens, ref = scene(queries=5)
    loss = GRQOLoss(objective=objective, alpha=0.5, groups='prompt')
    plain = GRQOLoss(objective=objective, alpha=0.5)
    torch.testing.assert_close(
        per_layer(loss, cost, targets, tokens, ref), per_layer(plain, cost, targets, tokens, ref)
    )


def test_grouped_advantage_without_mute_has_mean_zero_and_no_gradient():
    leaves, cost, targets, tokens, _ = scene()
    groups = prompt_groups(tokens, targets)
    advantage = grouped_advantage(prompt_rewards(cost, targets, groups), groups, mute=0.0)
    sums = torch.einsum('lbq,bqk->lbk', advantage, groups.member.double())
    # Sums of about ten numbers of order one in float64.
    assert sums.abs().max() < 1e-13
    assert max(g.abs().max() for g in torch.autograd.grad(sums.square().sum() + sums.sum(), leaves)) < 1e-13
    loss = GRQOLoss(alpha=1.0, beta=0.0, mute=0.0, groups='prompt', allow_vanishing=True)
    gradients = torch.autograd.grad(per_layer(loss, *scene_without_leaves(leaves, targets, tokens)).sum(), leaves)
    assert max(g.abs().max() for g in gradients) < 1e-13


def scene_without_leaves(leaves, targets, tokens):
    return matching_cost(*leaves, targets), targets, tokens, tokens.detach().amax(-1)


def test_prompt_groups_gradient_reaches_only_queries_of_present_prompts():
    (logits, boxes), cost, targets, tokens, ref = scene(labels=((0,),))
    loss = GRQOLoss(alpha=1.0, beta=0.0, groups='prompt')
    gradient = torch.autograd.grad(per_layer(loss, cost, targets, tokens, ref).sum(), boxes)[0]
    touched = gradient.abs().amax(-1)[0, 0] > 0
    assert touched.any()
    assert torch.equal(touched, prompt_groups(tokens, targets).of_present()[0])


def test_one_sided_kl_ignores_less_confident_queries_of_absent_classes():
    """A query of an absent class gets a gradient only if it is more confident than its reference."""
    _, cost, targets, tokens, ref = scene(labels=((0,),))
    loss = GRQOLoss(alpha=0.0, beta=1.0, one_sided_kl=True)
    gradient = torch.autograd.grad(per_layer(loss, cost, targets, tokens, ref).sum(), tokens)[0].abs().amax(-1)
    counted = one_sided(tokens.amax(-1), ref, prompt_groups(tokens, targets))
    assert torch.equal(gradient > 0, counted)
    assert 0 < counted.sum() < counted.numel()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('labels', [((), ()), ((), (0,)), ((0, 1, 2), (1, 1))])
def test_prompt_groups_of_degenerate_batches_are_finite(labels, dtype):
    (logits, boxes), _, targets, tokens, ref = scene(labels, dtype=torch.float32)
    logits, boxes, tokens = (
        (s * t.detach()).to(dtype).requires_grad_() for s, t in ((20, logits), (1, boxes), (4, tokens))
    )
    cost = matching_cost(logits, boxes, targets)
    layers = per_layer(GRQOLoss(**PROMPT), cost, targets, tokens, ref)
    gradients = torch.autograd.grad(layers.sum(), (logits, boxes, tokens), allow_unused=True)
    assert layers.isfinite().all()
    assert all(g.isfinite().all() for g in gradients if g is not None)


def test_prompt_groups_of_equal_rewards_give_no_loss_and_no_gradient():
    cost = torch.full((1, 1, 12, 1), 2.5, dtype=torch.float64, requires_grad=True)
    targets = pad_targets([torch.tensor([[0.0, 0, 9, 9]])], [torch.tensor([[1.0, 0.0]])], [(10, 10)])
    tokens = torch.zeros(1, 12, 2, dtype=torch.float64)
    tokens[..., 1] = float('-inf')
    loss = per_layer(GRQOLoss(alpha=1.0, groups='prompt'), cost, targets, tokens, tokens[..., 0])
    loss.sum().backward()
    assert loss.item() == 0
    assert torch.equal(cost.grad, torch.zeros_like(cost))


def test_grqo_loss_rejects_a_vanishing_reward_by_default():
    with pytest.raises(InputError, match='identically zero'):
        GRQOLoss(mute=0.0)
    assert GRQOLoss(mute=0.0, allow_vanishing=True).num_mute(40) == 0


@pytest.mark.parametrize(
    ('settings', 'text'), [(dict(groups='class'), 'groups'), (dict(groups='prompt', mute=0.1), 'mutes no query')]
)
def test_grqo_loss_rejects_invalid_groups(settings, text):
    with pytest.raises(InputError, match=text):
        GRQOLoss(**settings)


def test_prompt_groups_in_the_detector_change_the_loss(build_tiny, make_batch):
    """Losses and gradients are finite, and differ from those of the default."""
    model = build_tiny().train()
    model.reference = ReferenceModel(copy.deepcopy(model).eval())
    inputs, samples = make_batch((3, 2), num_classes=2)
    found = {}
    for name, switches in (('published', {}), ('variant', PROMPT)):
        model.bbox_head.loss_grqo = GRQOLoss(alpha=1.0, **switches)
        torch.manual_seed(0)
        model.zero_grad()
        losses = model.loss(inputs, samples)
        found[name] = losses['loss_grqo'].item()
        sum(value.sum() for key, value in losses.items() if 'loss' in key).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert math.isfinite(found['variant'])
    assert found['variant'] != found['published']
