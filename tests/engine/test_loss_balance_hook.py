"""Weights of losses from their gradients: correct, without an effect on the training before, and resumed."""

import copy
import os
import signal

import pytest
import torch

from dinor1.engine import LossBalanceHook
from dinor1.engine.hooks.loss_balance import gradient_ratios
from dinor1.utils.errors import InputError

HEAD = {
    'model.bbox_head.type': 'GroupRelativeHead',
    'model.bbox_head.loss_grqo': None,
    'model.bbox_head.loss_ranking': dict(type='PromptRankingLoss'),
    'model.bbox_head.loss_exemplar_group': dict(type='ExemplarGroupLoss'),
}
BRANCH = {
    'model.decoder.layer_order': 'cross_first',
    'model.bbox_head.loss_one_to_many': dict(type='OneToManyLoss'),
}
NAMES = ['loss_ranking', 'loss_one_to_many', 'loss_exemplar_group']
SHARES = dict(loss_ranking=0.2, loss_exemplar_group=0.3)
# One epoch of six iterations, of which the second to the fourth are measured.
HOOK = {
    'train_cfg.max_epochs': 1,
    'default_hooks.balance': dict(type='LossBalanceHook', shares=SHARES, warmup=1, num_batches=3),
}


def weights_of(runner):
    return [getattr(runner.model.bbox_head, name).loss_weight for name in SHARES]


def batch(make_batch, counts=(3, 3)):
    inputs, samples = make_batch(counts)
    for sample in samples:
        sample.gt_instances.labels = torch.arange(len(sample.gt_instances.labels)) % 2
    return dict(inputs=list(inputs), data_samples=samples)


def test_gradient_ratio_gives_a_loss_its_share(build_tiny, make_batch):
    model = build_tiny(**HEAD, **BRANCH).train()
    data = batch(make_batch)
    torch.manual_seed(5)
    ratios = gradient_ratios(model, data, NAMES)
    # Measuring leaves weights, buffers and random numbers as they are.
    assert [getattr(model.bbox_head, name).loss_weight for name in NAMES] == [1.0] * 3
    # Weigh each loss with its share of the ratio, and compare the gradients.
    for name, ratio in ratios.items():
        getattr(model.bbox_head, name).loss_weight = 0.25 * ratio
    torch.manual_seed(5)
    data = model.data_preprocessor(copy.deepcopy(data), True)
    losses, output = model.loss_and_output(data['inputs'], data['data_samples'])
    selected = [output.hidden_states, output.branch_states]

    def norm(names):
        total = sum(losses[f'{layer}{name}'] for name in names for layer in ('d0.', ''))
        gradients = torch.autograd.grad(total, selected, retain_graph=True, allow_unused=True)
        return torch.cat([g.flatten() for g in gradients if g is not None]).norm().item()

    # The denoising queries get no gradient from these losses.
    detection = norm(['loss_cls', 'loss_bbox', 'loss_iou'])
    for name in NAMES:
        assert norm([name]) == pytest.approx(0.25 * detection, rel=1e-4), name


def test_gradient_ratio_without_objects_is_unknown(build_tiny, make_batch):
    ratios = gradient_ratios(build_tiny(**HEAD).train(), batch(make_batch, (0, 0)), ['loss_ranking'])
    assert ratios == dict(loss_ranking=None)


def test_loss_balance_hook_sets_the_weight_once(train):
    seen = []
    _, record = train('run', lambda runner: seen.append(weights_of(runner)), without=('reference',), **HEAD, **HOOK)
    # The weights are set before the fourth iteration.
    assert seen[:3] == [[0.0, 0.0]] * 3
    assert all(weight > 0 for weight in seen[3])
    assert seen[3:] == [seen[3]] * 3
    for name in ('loss_ranking', 'd0.loss_ranking', 'enc_loss_ranking', 'loss_exemplar_group'):
        values = [scalars[name] for scalars in record.history]
        assert values[:3] == [0.0] * 3
        assert all(value > 0 for value in values[3:])


def test_loss_balance_hook_changes_nothing_while_it_measures(train):
    settings = {**HEAD, 'train_cfg.max_epochs': 1, 'train_dataloader.batch_size': 8}
    balanced = {'default_hooks.balance': dict(type='LossBalanceHook', shares=SHARES, num_batches=99)}
    zero = {f'model.bbox_head.{name}.loss_weight': 0.0 for name in SHARES}
    _, measured = train('measured', without=('reference',), **settings, **balanced)
    _, plain = train('plain', without=('reference',), **settings, **zero)
    assert measured.history == plain.history
    assert len(plain.history) == 3


def test_loss_balance_hook_resumes(train):
    """Within the measurements, and after them."""
    _, whole = train('whole', without=('reference',), **HEAD, **HOOK)

    def stop(runner):
        if runner.iter in (2, 4):
            os.kill(os.getpid(), signal.SIGTERM)

    history = []
    for resume in (False, True, True):
        _, part = train('parts', stop, without=('reference',), **HEAD, **HOOK, resume=resume)
        history.append(part.history)
    assert [len(part) for part in history] == [3, 2, 1]
    assert sum(history, []) == whole.history


def test_loss_balance_hook_rejects_a_loss_that_the_head_lacks(train):
    with pytest.raises(InputError, match=r'^LossBalanceHook: model.bbox_head has no loss_ranking with a weight'):
        train('run', **HOOK)


@pytest.mark.parametrize(
    'settings',
    [
        dict(shares={}),
        dict(shares=dict(loss_ranking=0.0)),
        dict(shares=SHARES, warmup=-1),
        dict(shares=SHARES, num_batches=0),
    ],
    ids=str,
)
def test_loss_balance_hook_rejects_settings_out_of_range(settings):
    with pytest.raises(InputError, match='^LossBalanceHook: '):
        LossBalanceHook(**settings)
