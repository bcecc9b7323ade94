"""Gradients of the terms of the loss: correct, and without an effect on the training."""

import json
from pathlib import Path

import pytest
import torch

from dinor1.engine import LossGradientHook
from dinor1.engine.hooks.loss_gradients import TERMS, measure_terms, participation
from dinor1.utils.errors import InputError

ITERS = 6  # per epoch
HOOK = 'default_hooks.gradients'
GRQO = 'model.bbox_head.loss_grqo'
DETECTION = set(TERMS) - {'alignment'}


def batch(make_batch, counts=(3, 2)):
    inputs, samples = make_batch(counts)
    return dict(inputs=list(inputs), data_samples=samples)


def test_participation_closed_form():
    assert participation(torch.zeros(2, 5)) == 0
    assert participation(torch.tensor([[3.0, 0, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0]])) == pytest.approx((1 + 4) / 2)


@pytest.mark.parametrize('counts', [(3, 2), (0, 0)])
def test_measure_terms_norms_equal_backward(build_tiny, make_batch, counts):
    """Compare each term with backward() through a separate forward pass."""
    # Measure, and run a forward pass with the same random numbers.
    model = build_tiny(**{GRQO: dict(type='GRQOLoss', alpha=1.0, beta=0.0)}).train()
    data = batch(make_batch, counts)
    torch.manual_seed(5)
    measured = measure_terms(model, data)
    torch.manual_seed(5)
    with torch.random.fork_rng():
        losses = model(**model.data_preprocessor(data, True), mode='loss')
    # List the losses of each term.
    last = ['', 'd0.']
    owner = {
        'class': [f'{layer}loss_cls' for layer in last],
        'box': [f'{layer}loss_{kind}' for layer in last for kind in ('bbox', 'iou')],
        'encoder': [f'enc_loss_{kind}' for kind in ('cls', 'bbox', 'iou')],
        'denoising': [f'{layer}dn_loss_{kind}' for layer in last for kind in ('cls', 'bbox', 'iou')],
        'advantage': [f'{layer}loss_grqo' for layer in last],
    }
    assert {name for names in owner.values() for name in names} == {name for name in losses if 'loss' in name}
    # Compare the norms.
    for term, names in owner.items():
        chosen = [losses[name] for name in names]
        model.zero_grad()
        sum(chosen).backward(retain_graph=True)
        norm = sum(p.grad.double().square().sum() for p in model.parameters() if p.grad is not None) ** 0.5
        # Sums in float32 have another order.
        assert measured['norm'][term] == pytest.approx(float(norm), rel=1e-4, abs=1e-7)
    assert all(-1 - 1e-6 <= c <= 1 + 1e-6 for c in measured['cosine'].values())
    assert all(0 <= n <= model.num_queries for n in measured['queries'].values())
    if any(counts):
        # One-to-one matching gives at most as many queries a gradient of boxes as there are objects.
        assert measured['queries']['box'] <= 3 < measured['queries']['advantage']


def test_measure_terms_leaves_model_unchanged(build_tiny, make_batch):
    model = build_tiny().train()
    data = batch(make_batch)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    measured = measure_terms(model, data)
    assert torch.equal(state, torch.get_rng_state())
    assert model.bbox_head.loss_grqo is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert 'kl' not in measured['norm']
    assert set(measured['norm']) == DETECTION | {'advantage'}
    assert measured['alpha'] == 0.01
    assert measured['figures']['grqo_reward_std'] > 0


def test_measure_terms_leaves_grqo_loss_unchanged(build_tiny, make_batch):
    """Both while the loss is enabled and while the warm-up has disabled it."""
    model = build_tiny(**{GRQO: dict(type='GRQOLoss', beta=0.0, alpha=0.5)}).train()
    own = model.bbox_head.loss_grqo
    for enabled in (True, False):
        own.enabled = enabled
        measured = measure_terms(model, batch(make_batch))
        assert model.bbox_head.loss_grqo is own
        assert (own.enabled, own.alpha, own.beta) == (enabled, 0.5, 0.0)
        # During the warm-up, the default reward is measured.
        assert measured['alpha'] == (0.5 if enabled else 0.01)


def test_reward_without_mute_has_zero_gradient(build_tiny, make_batch):
    """As derived from the formulas, the gradient in the whole detector is zero up to rounding."""
    norms = {}
    for mute in (1 / 3, 0.0):
        loss = dict(type='GRQOLoss', alpha=1.0, beta=0.0, mute=mute, allow_vanishing=True)
        model = build_tiny(**{GRQO: loss}).train()
        torch.manual_seed(0)
        norms[mute] = measure_terms(model, batch(make_batch))['norm']['advantage']
    assert norms[0.0] < 1e-4 * norms[1 / 3]


def test_loss_gradient_hook_keeps_training_bitwise_equal(train):
    _, plain = train('plain')
    runner, measured = train('measured', **{HOOK: dict(type='LossGradientHook', interval=3)})
    assert measured.history == plain.history
    records = json.loads((Path(runner.work_dir) / 'loss_gradients.json').read_text())
    assert [record['iter'] for record in records] == list(range(0, 3 * ITERS, 3))
    assert all(DETECTION | {'advantage'} <= set(record['norm']) for record in records)
    assert ['kl' in record['norm'] for record in records] == [False] * 2 + [True] * 4
    # The KL of the first iteration after a refresh is not 0, because batch norm runs in different modes.
    assert records[3]['norm']['kl'] > 0
    assert records[3]['figures']['grqo_kl'] > 0
    assert 'train/gradient/box' in runner.message_hub.log_scalars


def test_loss_gradient_hook_restores_samplers_noise_and_norms(train):
    """Layers with state in Python: samples redrawn at every pass, stochastic rounding, norms with a schedule."""
    # Train with such layers, with and without the hook.
    changes = {
        'model.backbone': dict(
            _delete_=True,
            type='AffineEquivariantBackbone',
            widths=(4, 4, 4),
            n_samples=2,
            kernel=dict(hidden=8, mask='bump', support_radius=1.2),
            out_indices=(1, 2),
            proj_channels=(16, 32),
            resample='always',
        ),
        'model.transformer.norm_cfg': dict(type='PN', warmup_iters=4),
        'model_converters': [dict(type='IntegerTraining', bits=(8, 8, 8), stats_interval=1)],
        'train_cfg.max_epochs': 2,
    }
    one, plain = train('plain', **changes)
    two, measured = train('measured', **changes, **{HOOK: dict(type='LossGradientHook', interval=2)})
    assert measured.history == plain.history
    # Compare weights, states and statistics.
    expected = one.model.state_dict()
    assert any('iters' in name for name in expected)
    assert 'backbone.sampler.state' in expected
    assert all(torch.equal(expected[name], tensor) for name, tensor in two.model.state_dict().items())
    for name in ('train/grad_zeros', 'train/grad_group_0'):
        first, second = (run.message_hub.get_scalar(name).data[0] for run in (one, two))
        assert first.tolist() == second.tolist()


def test_loss_gradient_hook_continues_file_after_resume(train, tmp_path):
    hook = {HOOK: dict(type='LossGradientHook', interval=4)}
    train('whole', **hook)
    train('parts', **hook, **{'train_cfg.max_epochs': 2})
    train('parts', **hook, resume=True)
    whole, parts = (json.loads((tmp_path / name / 'loss_gradients.json').read_text()) for name in ('whole', 'parts'))
    assert [r['iter'] for r in parts] == [r['iter'] for r in whole] == [0, 4, 8, 12, 16]


def test_loss_gradient_hook_bad_input():
    with pytest.raises(InputError, match='interval'):
        LossGradientHook(interval=0)

    class Runner:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(InputError, match='cannot be trained with GRQO'):
        LossGradientHook().before_train(Runner)
