"""GRQOLoss: effect of every setting, losses and statistics equal to those of the functions, and disabling it."""

import copy

import pytest
import torch

from dinor1.evaluation import bernoulli_entropy
from dinor1.models import GRQOLoss, ReferenceModel
from dinor1.models.losses import group_advantage, grqo_loss, hungarian_match, objectness_kl, rewards_from_cost
from dinor1.registry import MODELS
from dinor1.utils.errors import InputError
from tests.models.grqo_scenes import per_layer, scene

CLIPPED = dict(objective='clipped', alpha=0.5, beta=0.2)


@pytest.mark.parametrize(
    'change',
    [
        dict(objective='contrast'),
        dict(objective='policy'),
        dict(alpha=0.6),
        dict(beta=0.3),
        dict(mute=0.5),
        dict(groups='prompt'),
        dict(one_sided_kl=True),
        dict(eps_low=0.1),
        dict(eps_high=0.1),
    ],
    ids=str,
)
def test_grqo_loss_depends_on_every_setting(change):
    _, cost, targets, tokens, ref = scene()
    # Move the reference away from the student, so that ratios are beyond both clips.
    ref = ref + 2 * torch.randn(ref.shape, dtype=ref.dtype)
    before = per_layer(GRQOLoss(**CLIPPED), cost, targets, tokens, ref)
    after = per_layer(GRQOLoss(**CLIPPED | change), cost, targets, tokens, ref)
    assert ((before - after).abs() > 1e-6).all()


@pytest.mark.parametrize('objective', ['contrast', 'policy', 'clipped'])
@pytest.mark.parametrize('clip', [{}, dict(eps_low=0.1, eps_high=0.05)])
def test_grqo_loss_equals_the_function(objective, clip):
    _, cost, targets, tokens, ref = scene()
    constants = dict(objective=objective, alpha=0.5, beta=0.2, **clip)
    expected = grqo_loss(rewards_from_cost(cost, targets), tokens.amax(-1), ref, num_mute=10, **constants)
    assert torch.equal(per_layer(GRQOLoss(**constants), cost, targets, tokens, ref), expected)


@pytest.mark.parametrize(
    ('rewards', 'logit', 'settings', 'expected'),
    [
        # Advantages are 1, 0 and muted; the ratio of the first query is far above the clip.
        ((1.0, 0.0, -1.0), 2.0, dict(eps_high=0.28), -1.28 / 3),
        ((1.0, 0.0, -1.0), 2.0, dict(eps_high=0.5), -1.5 / 3),
        # Advantages are -1, 0 and muted; the ratio of the first query is far below the clip.
        ((-1.0, 0.0, 1.0), -2.0, dict(eps_low=0.2), 0.8 / 3),
        ((-1.0, 0.0, 1.0), -2.0, dict(eps_low=0.6), 0.4 / 3),
    ],
)
def test_grqo_loss_clips_as_computed_by_hand(rewards, logit, settings, expected):
    _, _, targets, _, _ = scene(labels=((0,),), prompts=1)
    cost = -torch.tensor(rewards, dtype=torch.float64).reshape(1, 1, 3, 1)
    tokens = torch.tensor([logit, 0.0, 0.0], dtype=torch.float64).reshape(1, 3, 1)
    loss = GRQOLoss(objective='clipped', alpha=1.0, beta=0.0, **settings)
    found = per_layer(loss, cost, targets, tokens, -tokens.amax(-1))
    # The advantage divides by a standard deviation of 1 + 2e-9.
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64), atol=1e-8, rtol=0)


@pytest.mark.parametrize('settings', [{}, dict(objective='policy'), dict(objective='clipped', beta=0.0)], ids=str)
def test_grqo_loss_rejects_a_missing_reference(settings):
    _, cost, targets, tokens, _ = scene()
    loss = GRQOLoss(**settings)
    assert loss.needs_reference
    with pytest.raises(InputError, match="^GRQOLoss: .* need a reference model; add .*'ReferenceModelHook'") as caught:
        per_layer(loss, cost, targets, tokens, None)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'settings', [dict(beta=0.0), dict(objective='policy', beta=0.0), dict(objective='clipped', alpha=0.0, beta=0.0)]
)
def test_grqo_loss_without_reference_if_no_term_needs_it(settings):
    _, cost, targets, tokens, ref = scene()
    loss = GRQOLoss(**settings)
    assert not loss.needs_reference
    found = per_layer(loss, cost, targets, tokens, None)
    assert torch.equal(found, per_layer(loss, cost, targets, tokens, ref))


def test_grqo_loss_gives_the_reference_no_gradient():
    _, cost, targets, tokens, ref = scene()
    ref.requires_grad_()
    losses = per_layer(GRQOLoss(**CLIPPED), cost, targets, tokens, ref)
    assert torch.autograd.grad(losses.sum(), ref, allow_unused=True)[0] is None


@pytest.mark.parametrize('labels', [((0, 1, 1), (2,)), ((), (0,)), ((), ())])
def test_grqo_loss_statistics_equal_a_loop(labels):
    _, cost, targets, tokens, ref = scene(labels)
    # The encoder stage is matched too, but is not part of the statistics.
    match = hungarian_match(torch.cat([cost, cost[:1]]), targets)
    best = tokens.amax(-1)
    figures = GRQOLoss()(cost, targets, match, tokens, best, ref)
    rewards = rewards_from_cost(cost, targets)
    advantage = group_advantage(rewards, 0)
    # Divide the advantages into those of matched and of unmatched queries.
    pairs = {(s, i, q) for s, i, q, _ in zip(*(index.tolist() for index in match), strict=True)}
    num_layers, num_images, num_queries = rewards.shape
    matched, unmatched = [], []
    for layer in range(num_layers):
        for image in range(num_images):
            for query in range(num_queries):
                chosen = matched if (layer, image, query) in pairs else unmatched
                chosen.append(advantage[layer, image, query].item())
    # Compute the other statistics.
    expected = dict(
        grqo_reward_mean=rewards.mean().item(),
        grqo_reward_std=torch.stack([r.std() for r in rewards.flatten(0, 1)]).mean().item(),
        grqo_advantage_matched=sum(matched) / max(len(matched), 1),
        grqo_advantage_unmatched=sum(unmatched) / len(unmatched),
        # A third of 30 queries is muted.
        grqo_advantage_kept=advantage[..., :20].mean().item(),
        grqo_kl=objectness_kl(best, ref).mean().item(),
        grqo_objectness_entropy=bernoulli_entropy(best.detach()).mean().item(),
    )
    assert {name for name in figures if name.startswith('grqo_')} == set(expected)
    for name, value in expected.items():
        assert not figures[name].requires_grad
        # The entropy is computed in single precision.
        assert figures[name].item() == pytest.approx(value, rel=1e-6, abs=1e-12), name


def test_grqo_loss_keeps_and_shows_its_settings():
    loss = GRQOLoss(objective='clipped', alpha=0.5, eps_low=0.1, eps_high=0.4, groups='prompt', one_sided_kl=True)
    other = loss.with_weights(beta=0.0)
    assert (other.beta, other.alpha) == (0.0, 0.5)
    assert str(other) == str(loss).replace('beta=0.04', 'beta=0.0')
    for shown in ('objective=clipped', 'eps_low=0.1', 'eps_high=0.4', 'groups=prompt', 'one_sided_kl=True'):
        assert shown in str(loss)
    assert str(MODELS.build(dict(type='GRQOLoss', mute=0.5))) == str(GRQOLoss(mute=0.5))


# In the detector ------------------------------------------------------------------------------------------


def losses_of(model, batch):
    torch.manual_seed(0)
    return model.loss(*copy.deepcopy(batch))


def test_detector_rejects_a_missing_reference(build_tiny, make_batch):
    model = build_tiny(**{'model.bbox_head.loss_grqo': dict(type='GRQOLoss')})
    with pytest.raises(InputError, match='need a reference model'):
        model.loss(*make_batch((2, 1)))
    model.bbox_head.loss_grqo = GRQOLoss(beta=0.0)
    assert 'loss_grqo' in model.loss(*make_batch((2, 1)))


def test_grqo_loss_disabled_gives_the_supervised_losses(build_tiny, make_batch):
    plain, model = build_tiny(), build_tiny(**{'model.bbox_head.loss_grqo': dict(type='GRQOLoss')})
    # The loss has no weights, so that checkpoints of both models fit each other.
    model.load_state_dict(plain.state_dict())
    batch = make_batch((2, 1))
    expected = losses_of(plain, batch)
    model.bbox_head.loss_grqo.enabled = False
    found = losses_of(model, batch)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize('settings', [dict(type='GRQOLoss'), dict(type='GRQOLoss', groups='prompt')])
def test_grqo_loss_enabled_adds_to_the_supervised_losses(build_tiny, make_batch, settings):
    model, batch = build_tiny(**{'model.bbox_head.loss_grqo': settings}), make_batch((2, 1))
    model.reference = ReferenceModel(copy.deepcopy(model).eval())
    found = losses_of(model, batch)
    model.bbox_head.loss_grqo.enabled = False
    expected = losses_of(model, batch)
    assert {name for name in found.keys() - expected.keys() if 'loss' in name} == {'d0.loss_grqo', 'loss_grqo'}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(value.isfinite() for value in found.values())


def test_reference_model_is_not_registered_in_the_detector(build_tiny):
    model = build_tiny()
    names, count = set(model.state_dict()), len(list(model.modules()))
    model.reference = ReferenceModel(copy.deepcopy(model))
    assert set(model.state_dict()) == names
    assert len(list(model.modules())) == count
    assert not any(p.requires_grad for p in model.reference.model.parameters())


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('name', ['alpha', 'beta', 'mute', 'eps_low', 'eps_high'])
def test_grqo_loss_rejects_constants_that_are_not_finite(name, value):
    with pytest.raises(InputError, match=f'^GRQOLoss: expected .*{value}'):
        GRQOLoss(**{name: value})


def test_language_alignment_rejects_weight_that_is_not_finite():
    with pytest.raises(InputError, match='LanguageAlignment: loss_weight must be a finite number'):
        MODELS.build(dict(type='LanguageAlignment', loss_weight=float('nan')))
