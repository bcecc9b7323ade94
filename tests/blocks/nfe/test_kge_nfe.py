"""NFE's scores, loss and algebra compared with published numbers, quadrature, torch.distributions and autograd."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from dinor1.blocks.nfe import KINDS, NFE
from dinor1.blocks.nfe.kinds import Features
from dinor1.blocks.nfe.losses import softplus, softplus_sum
from dinor1.blocks.nfe.regularizer import power_norm

each_kind = pytest.mark.parametrize('kind', KINDS)
# Name of a kind in the file of reference numbers.
KEY = {kind: kind.replace('nfe-', 'nfe_' if kind in ('nfe-mu', 'nfe-sigma') else 'nfe') for kind in KINDS}


@pytest.fixture(scope='module')
def oracle(shared_dir):
    with np.load(shared_dir / 'oracles/graph_public.npz') as file:
        arrays = {key.removeprefix('kge_'): torch.from_numpy(file[key]) for key in file if key.startswith('kge_')}
    return {key: value.double() if value.is_floating_point() else value for key, value in arrays.items()}


def make(kind='nfe-1', num_entities=11, num_relations=3, dim=4, seed=0, **kwargs) -> NFE:
    """A float64 model with parameters away from 0, where |x| has a kink."""
    generator = torch.Generator().manual_seed(seed)
    nfe = NFE(num_entities, num_relations, dim, kind, **kwargs).double()
    for parameter in (nfe.entity, nfe.relation):
        draw = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 2 - 1
        parameter.data = draw + 0.1 * draw.sign()
    return nfe


def triples(nfe, count=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sizes = (nfe.num_entities, len(nfe.relation), nfe.num_entities)
    return [torch.randint(size, (count,), generator=generator) for size in sizes]


# Published numbers -----------------------------------------------------------------------------------------


def from_oracle(oracle, kind, **kwargs) -> NFE:
    key = KEY[kind]
    entity, relation = oracle[f'{key}_entity'], oracle[f'{key}_relation']
    nfe = NFE(
        len(entity), len(relation) // 2, int(oracle['nfe_dim']), kind, float(oracle[f'{key}_gamma']), **kwargs
    ).double()
    # Loading is strict: both tables have the release's shapes.
    nfe.load_state_dict(dict(entity=entity, relation=relation))
    return nfe


@pytest.mark.shared
@each_kind
def test_nfe_scores_loss_and_gradients_equal_release(oracle, kind):
    nfe, key = from_oracle(oracle, kind), KEY[kind]
    heads, relations, tails = (oracle[f'nfe_{name}'] for name in ('heads', 'relations', 'tails'))
    # Both sides are float64; only the order of summation differs.
    close = dict(rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(nfe.score_all(heads, relations), oracle[f'{key}_scores'], **close)
    loss = nfe.loss(heads, relations, tails)
    torch.testing.assert_close(loss, oracle[f'{key}_loss'], **close)
    loss.backward()
    torch.testing.assert_close(nfe.entity.grad, oracle[f'{key}_grad_entity'], **close)
    torch.testing.assert_close(nfe.relation.grad, oracle[f'{key}_grad_relation'], **close)


@pytest.mark.shared
def test_nfe_2_exact_sign_gives_wasserstein_distance(oracle):
    nfe = from_oracle(oracle, 'nfe-2', exact_sign=True)
    scores = nfe.score_all(oracle['nfe_heads'], oracle['nfe_relations'])
    torch.testing.assert_close(scores, oracle['nfe2_scores_exact_w2'], rtol=1e-9, atol=1e-9)
    # The released form differs; otherwise the option would have no effect.
    assert (scores - oracle['nfe2_scores']).abs().max() > 0.1


@pytest.mark.shared
def test_nfe_training_trajectory_equals_release(oracle):
    entity, relation = oracle['traj_entity0'], oracle['traj_relation0']
    nfe = NFE(len(entity), len(relation) // 2, entity.shape[1] // 2, gamma=float(oracle['traj_gamma'])).double()
    nfe.load_state_dict(dict(entity=entity, relation=relation))
    optimizer = torch.optim.Adam(nfe.parameters(), lr=float(oracle['traj_lr']))
    losses = []
    for batch in oracle['traj_batches']:
        loss = nfe.loss(*batch.unbind(1))
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Adam divides by small second moments, which amplifies the last digits over twelve steps.
    torch.testing.assert_close(torch.stack(losses), oracle['traj_losses'], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(nfe.entity.detach(), oracle['traj_entity1'], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(nfe.relation.detach(), oracle['traj_relation1'], rtol=1e-6, atol=1e-8)


# Scores against definitions --------------------------------------------------------------------------------


def gauss_rows(nfe, h, r, t):
    mean, slope = nfe.entity[h].chunk(2, -1)
    shift, scale = nfe.relation[r].chunk(2, -1)
    return (scale * mean + shift, scale, slope), nfe.entity[t].chunk(2, -1)


def test_nfe_1_score_is_wasserstein_distance_of_gaussians():
    nfe = make('nfe-1', gamma=3.0)
    h, r, t = triples(nfe)
    (mean1, scale, slope1), (mean2, slope2) = gauss_rows(nfe, h, r, t)
    # For normal variables: W2^2 = (m1 - m2)^2 + (s1 - s2)^2.
    expected = 3.0 - ((mean1 - mean2) ** 2 + (abs(scale * slope1) - abs(slope2)) ** 2).sum(-1)
    torch.testing.assert_close(nfe.score(h, r, t), expected)


def test_nfe_3_score_is_kl_divergence_of_torch():
    nfe = make('nfe-3', gamma=14.0)
    h, r, t = triples(nfe)
    (mean1, scale, slope1), (mean2, slope2) = gauss_rows(nfe, h, r, t)
    kl = kl_divergence(Normal(mean1, softplus(scale) * softplus(slope1)), Normal(mean2, softplus(slope2)))
    torch.testing.assert_close(nfe.score(h, r, t), 14.0 - kl.sum(-1))


@pytest.mark.parametrize('base', ['normal', 'uniform'])
def test_nfe_2_score_is_distance_of_quantile_functions(base):
    """W2^2 is the integral over (0, 1) of the squared difference of the quantile functions, here by quadrature."""
    nfe = make('nfe-2', base=base, exact_sign=True, gamma=0.0)
    h, r, t = triples(nfe)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    # z from 0 to the end of the base's support; both halves, since the kink is at 0.
    end = 10.0 if base == 'normal' else math.sqrt(3)
    z = torch.from_numpy((nodes + 1) / 2 * end)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) if base == 'normal' else z * 0 + 1 / (2 * end)
    measure = torch.from_numpy(weights / 2 * end) * density

    def quantiles(rows, shift=None, scale=None):
        """Quantiles at both tails of probability: values at z and at -z, in ascending order."""
        mean, left, right = rows.detach().unsqueeze(-1).chunk(3, -2)
        low, high = mean - left.abs() * z, mean + right.abs() * z
        if scale is not None:
            low, high = scale[..., None] * low + shift[..., None], scale[..., None] * high + shift[..., None]
            low, high = torch.minimum(low, high), torch.maximum(low, high)
        return low, high

    shift, scale = nfe.relation[r].detach().chunk(2, -1)
    assert (scale < 0).any()
    assert (scale > 0).any()
    moved, fixed = quantiles(nfe.entity[h], shift, scale), quantiles(nfe.entity[t])
    distance = sum(((a - b).square() * measure).sum((-1, -2)) for a, b in zip(moved, fixed, strict=True))
    # The tail of the normal base beyond 10 has a probability below 1e-20.
    torch.testing.assert_close(nfe.score(h, r, t), -distance, rtol=1e-9, atol=1e-9)


def test_distmult_and_transe_use_whole_row():
    for kind in ('transe', 'distmult'):
        nfe = make(kind, gamma=2.0)
        h, r, t = triples(nfe)
        head, relation, tail = nfe.entity[h], nfe.relation[r], nfe.entity[t]
        assert head.shape[-1] == relation.shape[-1] == 2 * nfe.dim
        direct = (head * relation * tail).sum(-1)
        if kind == 'transe':
            direct = 2.0 - (head + relation - tail).square().sum(-1)
        torch.testing.assert_close(nfe.score(h, r, t), direct)


def test_kinds_agree_in_special_cases():
    h, r, t = triples(make())
    one, two = make('nfe-1'), make('nfe-2')
    mean, slope = one.entity.detach().chunk(2, -1)
    two.load_state_dict(dict(entity=torch.cat([mean, slope, slope], -1), relation=one.relation.detach()))
    torch.testing.assert_close(two.score(h, r, t), one.score(h, r, t))

    flat, mu = make('nfe-1'), make('nfe-mu')
    flat.entity.data[:, flat.dim :] = 0
    torch.testing.assert_close(flat.score(h, r, t), mu.score(h, r, t))

    mu.relation.data[:, mu.dim :] = 1
    shift = mu.relation.detach().chunk(2, -1)[0]
    distance = (mean[h] + shift[r] - mean[t]).square().sum(-1)
    torch.testing.assert_close(mu.score(h, r, t), 1 - distance)


@each_kind
def test_score_all_equals_single_triples(kind):
    nfe = make(kind)
    h, r, _ = triples(nfe)
    everyone = torch.arange(nfe.num_entities)
    one_by_one = torch.stack([nfe.score(h, r, everyone[i].expand(len(h))) for i in everyone], 1)
    torch.testing.assert_close(nfe.score_all(h, r), one_by_one)


@each_kind
def test_scores_permute_with_relabelled_entities(kind):
    nfe, other = make(kind), make(kind)
    order = torch.randperm(nfe.num_entities)
    other.entity.data = nfe.entity.data[order]
    h, r, _ = triples(nfe)
    torch.testing.assert_close(other.score_all(order.argsort()[h], r), nfe.score_all(h, r)[:, order])


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'distmult'])
def test_gamma_shifts_every_score(kind):
    low, high = make(kind, gamma=0.5), make(kind, gamma=4)
    h, r, _ = triples(low)
    torch.testing.assert_close(high.score_all(h, r) - low.score_all(h, r), torch.full((6, 11), 3.5).double())


# Loss ------------------------------------------------------------------------------------------------------


@each_kind
def test_scores_gradcheck(kind):
    nfe = make(kind, num_entities=4, num_relations=2, dim=2)
    h, r, t = torch.tensor([0, 1, 3]), torch.tensor([0, 3, 1]), torch.tensor([1, 2, 3])

    def run(entity, relation, function):
        state = {'entity': entity, 'relation': relation}
        return torch.func.functional_call(nfe, state, function)

    nfe.forward = lambda method, *args: getattr(nfe, method)(*args)
    for arguments in (('score', h, r, t), ('score_all', h, r)):
        assert torch.autograd.gradcheck(
            lambda *tables, arguments=arguments: run(*tables, arguments), (nfe.entity, nfe.relation)
        )


def test_softplus_sum_in_pieces_gradcheck():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (3,), (7, 4), (7,)]
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def run(a, b, c, d):
        # 6 scores together, in pieces of 2, 2, 2 and 1 keys.
        return softplus_sum(Features(a, b), Features(c, d), piece=6)

    assert torch.autograd.gradcheck(run, inputs)
    a, b, c, d = inputs
    direct = torch.log1p(torch.exp(a @ c.T + b[:, None] + d)).sum()
    torch.testing.assert_close(run(*inputs), direct)


def dense_loss(nfe, h, r, positives):
    """The definition of the loss, by autograd on the whole score matrix."""
    scores = nfe.score_all(h, r)
    return torch.where(positives, softplus(-scores), softplus(scores)).sum(1).mean()


@each_kind
@pytest.mark.parametrize('several', [False, True], ids=['one tail', 'several tails'])
def test_logistic_loss_equals_definition(kind, several):
    nfe = make(kind)
    h, r, t = triples(nfe)
    positives = torch.zeros(6, 11, dtype=torch.bool)
    positives[torch.arange(6), t] = True
    if several:
        positives[:, ::4] = True
    grads = torch.autograd.grad(dense_loss(nfe, h, r, positives), [nfe.entity, nfe.relation])
    loss = nfe.loss(h, r, t, positives=positives if several else None)
    torch.testing.assert_close(loss, dense_loss(nfe, h, r, positives))
    torch.testing.assert_close(torch.autograd.grad(loss, [nfe.entity, nfe.relation]), grads)


def test_sampled_loss_is_unbiased():
    """The mean over all samples of 3 of 7 entities equals the loss over all entities, and so does its gradient."""
    nfe = make('nfe-2', num_entities=7)
    h, r, t = triples(nfe, 4)
    samples = [torch.tensor(sample) for sample in itertools.combinations(range(7), 3)]
    mean = sum(nfe.loss(h, r, t, negatives=sample) for sample in samples) / len(samples)
    full = nfe.loss(h, r, t)
    torch.testing.assert_close(mean, full)
    tables = [nfe.entity, nfe.relation]
    torch.testing.assert_close(torch.autograd.grad(mean, tables), torch.autograd.grad(full, tables))


def test_softplus_is_exact_where_torch_approximates():
    x = torch.tensor([-800.0, -30, 0, 19.9, 20.1, 30, 800], dtype=torch.float64)
    expected = [0.0] + [math.log1p(math.exp(v)) for v in x[1:-1].tolist()] + [800.0]
    torch.testing.assert_close(softplus(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-15, atol=1e-15)


def test_loss_stays_in_float32_under_autocast():
    nfe = NFE(50, 3, 16)
    h, r, t = triples(nfe)
    plain = nfe.loss(h, r, t), nfe.score_all(h, r)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = nfe.loss(h, r, t), nfe.score_all(h, r)
    for a, b in zip(plain, mixed, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b)


def test_penalty_is_power_norm_of_rows():
    nfe = make()
    h, r, t = triples(nfe)
    rows = torch.cat([nfe.entity[h], nfe.relation[r], nfe.entity[t]], 1).detach().numpy()
    for p in (1, 2, 3):
        expected = (np.abs(rows) ** p).sum(1).mean()
        assert nfe.penalty(h, r, t, p=p).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: power_norm(x), nfe.entity)
    with pytest.raises(ValueError, match='p must be at least 1'):
        nfe.penalty(h, r, t, p=0.5)


# Algebra ---------------------------------------------------------------------------------------------------


def apply(affine, x):
    scale, shift = affine
    return scale * x + shift


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'distmult'])
def test_relations_form_group(kind):
    nfe = make(kind)
    a, b, c = (torch.tensor([i]) for i in (0, 1, 2))
    x = torch.randn(1, nfe.affine_map(a)[0].shape[-1], dtype=torch.float64)
    torch.testing.assert_close(apply(nfe.compose(a, b), x), apply(nfe.affine_map(b), apply(nfe.affine_map(a), x)))
    left, right = nfe.compose(nfe.compose(a, b), c), nfe.compose(a, nfe.compose(b, c))
    torch.testing.assert_close(left, right)
    for scale, shift in (nfe.compose(nfe.inverse(a), a), nfe.compose(a, nfe.inverse(a))):
        torch.testing.assert_close(scale, torch.ones_like(scale))
        torch.testing.assert_close(shift, torch.zeros_like(shift))
    commutes = torch.allclose(nfe.compose(a, b)[1], nfe.compose(b, a)[1])
    assert commutes == (kind == 'transe')


def set_relation(nfe, number, scale, shift):
    nfe.relation.data[number] = torch.cat([shift, scale])


@pytest.mark.parametrize('kind', ['nfe-1', 'nfe-mu', 'nfe-sigma', 'nfe-2'])
def test_relation_rules_hold_for_every_pair_of_entities(kind):
    """The propositions of the paper as statements about scores; distance 0 is a score of gamma = 1."""
    nfe = make(kind, num_entities=30, exact_sign=True)
    everyone, d = torch.arange(30), nfe.dim
    one, generator = torch.ones(d).double(), torch.Generator().manual_seed(5)
    shift = torch.rand(d, generator=generator, dtype=torch.float64)

    def all_scores(number):
        return nfe.score_all(everyone, torch.full_like(everyone, number))

    # Symmetry: x -> m - x is its own inverse, and r(x, y) scores as r(y, x).
    set_relation(nfe, 0, -one, shift)
    torch.testing.assert_close(all_scores(0), all_scores(0).T)
    # A relation that is not its own inverse distinguishes the directions.
    set_relation(nfe, 0, 2 * one, shift)
    assert not torch.allclose(all_scores(0), all_scores(0).T)

    # Inversion and composition: if two triples hold exactly, so does the third.
    for scale1, scale2 in ((2 * one, -0.5 * one), (-one, 3 * one), (0.7 * one, 1.3 * one)):
        set_relation(nfe, 0, scale1, shift)
        set_relation(nfe, 1, scale2, shift.flip(0))
        zero, first = torch.tensor(0), torch.tensor(1)
        rules = (nfe.inverse(zero), nfe.compose(zero, first), nfe.compose(first, zero))
        inverse, after, before = ((scale.detach(), shift.detach()) for scale, shift in rules)
        set_relation(nfe, 2, *inverse)
        set_relation(nfe, 3, *after)
        set_relation(nfe, 4, *before)

        def image(entity, number):
            """Set the last entity to the image of ``entity`` under the relation, so that the exact score is 1."""
            scale, move = nfe.affine_map(torch.tensor(number))
            mean, *slopes = nfe.entity.detach()[entity].chunk(nfe.flow.parts)
            if len(slopes) == 2:
                slopes = [torch.where(scale < 0, b, a) for a, b in zip(slopes, slopes[::-1], strict=True)]
            return torch.cat([apply((scale, move), mean), *(scale * slope for slope in slopes)]).detach()

        nfe.entity.data[28] = image(0, 0)
        nfe.entity.data[29] = image(28, 1)
        facts = [(0, 0, 28), (28, 1, 29), (28, 2, 0), (0, 3, 29)]
        scores = nfe.score(*torch.tensor(facts).unbind(1))
        torch.testing.assert_close(scores, torch.ones(4).double())
        # The other order of composition is another map.
        assert nfe.score(*torch.tensor([[0, 4, 29]]).unbind(1)) < 1 - 1e-3 or kind == 'nfe-sigma'


def test_inverse_of_scale_zero_is_infinite():
    nfe = make()
    set_relation(nfe, 0, torch.zeros(4), torch.ones(4))
    assert nfe.inverse(torch.tensor(0))[0].isinf().all()


@pytest.mark.parametrize('kind', KINDS)
def test_uncertainty_is_mean_size_of_slopes(kind):
    nfe = make(kind)
    if kind in ('nfe-mu', 'transe', 'distmult'):
        with pytest.raises(ValueError, match=f'{kind} has no uncertainty'):
            nfe.uncertainty()
        return
    slopes = nfe.entity.detach()[:, nfe.dim :].numpy()
    sizes = np.log1p(np.exp(slopes)) if kind == 'nfe-3' else np.abs(slopes)
    np.testing.assert_allclose(nfe.uncertainty().numpy(), sizes.mean(1), rtol=1e-12)


# The rest --------------------------------------------------------------------------------------------------


@each_kind
def test_score_features_equals_rows(kind):
    """With the identity as linear layer, features are rows of the table."""
    nfe = make(kind, feature_dim=12 if kind == 'nfe-2' else 8)
    h, r, _ = triples(nfe)
    with torch.no_grad():
        nfe.feature_flow.weight.copy_(torch.eye(len(nfe.feature_flow.weight)))
        nfe.feature_flow.bias.zero_()
    torch.testing.assert_close(nfe.score_features(nfe.entity[h], r, nfe.entity), nfe.score_all(h, r))
    with pytest.raises(ValueError, match='needs a model made with feature_dim'):
        make(kind).score_features(nfe.entity[h], r, nfe.entity)


def test_tables_start_uniform_in_bound():
    nfe = NFE(300, 5, 40, 'nfe-2', init_bound=0.3)
    assert nfe.entity.shape == (300, 120)
    assert nfe.relation.shape == (10, 80)
    assert nfe.entity.abs().max() <= 0.3
    # 36,000 uniform draws: the standard error of their standard deviation is 0.0004.
    assert nfe.entity.std().item() == pytest.approx(0.3 / math.sqrt(3), abs=2e-3)
    assert NFE(3, 5, 4, reciprocal=False).relation.shape == (5, 8)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(kind='nfe-4'), "kind must be one of nfe-1, .*; got 'nfe-4'"),
        (dict(base='cauchy'), "base must be one of normal, uniform; got 'cauchy'"),
        (dict(dim=0), 'dim must be at least 1, got 0'),
        (dict(num_entities=-1), 'num_entities must be at least 1, got -1'),
    ],
)
def test_nfe_bad_arguments_raise(kwargs, message):
    with pytest.raises(ValueError, match=message):
        NFE(**(dict(num_entities=3, num_relations=1) | kwargs))


def test_nfe_unknown_indices_raise():
    nfe = make()
    index = torch.tensor([0])
    with pytest.raises(ValueError, match='entity 11 is unknown; indices are 0 to 10'):
        nfe.score_all(index + 11, index)
    with pytest.raises(ValueError, match='entity -1 is unknown'):
        nfe.loss(index, index, index - 1)
    with pytest.raises(ValueError, match='relation 6 is unknown; indices are 0 to 5'):
        nfe.score(index, index + 6, index)
