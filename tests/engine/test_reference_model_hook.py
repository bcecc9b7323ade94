"""Warm-up, reference model and graceful stop, in real runs of the Runner."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict

from dinor1.engine import ReferenceModelHook
from dinor1.engine.hooks.graceful_stop import GracefulStopHook, has_stepped
from dinor1.utils.errors import InputError

ITERS = 6  # per epoch


def test_reference_model_hook_enables_grqo_after_warmup(train):
    runner, record = train('run')
    has_term = ['loss_grqo' in scalars for scalars in record.history]
    assert has_term == [False] * ITERS + [True] * 2 * ITERS
    for name in ('reward_mean', 'reward_std', 'advantage_matched', 'advantage_unmatched', 'kl', 'objectness_entropy'):
        assert f'grqo_{name}' in record.history[-1]
    assert all(value == value and abs(value) < 1e6 for scalars in record.history for value in scalars.values())
    # By construction of the reward, matched queries have a larger advantage than the others.
    assert record.history[-1]['grqo_advantage_matched'] > record.history[-1]['grqo_advantage_unmatched']


def test_kl_is_zero_in_first_iteration_after_refresh(train):
    """Model and reference have the same mode, prompts and weights, and no dropout."""
    overrides = {
        'default_hooks.reference.mode': 'train',
        'model.encoder.fusion.dropout': 0.0,
    }
    _, record = train('run', **overrides)
    kl = [scalars['grqo_kl'] for scalars in record.history[ITERS:]]
    # The reference computes the last layer only for the selected tokens, and so rounds differently: the KL is quadratic
    # in differences of 1e-5.
    assert kl[0] < 1e-8
    assert kl[ITERS] < 1e-8
    assert kl[1] > 1e-6
    assert kl[ITERS + 1] > 1e-6


def test_reference_model_is_not_in_model_optimizer_and_checkpoint(train):
    # Look at the reference during the training.
    seen = {}

    def look(runner):
        if runner.iter == 2 * ITERS - 1:
            hook = next(h for h in runner.hooks if isinstance(h, ReferenceModelHook))
            reference = hook.reference.model
            assert runner.model.reference is hook.reference
            ids = {id(p) for p in reference.parameters()}
            seen['in_model'] = any(id(p) in ids for p in runner.model.parameters())
            groups = runner.optim_wrapper.optimizer.param_groups
            seen['in_optimizer'] = any(id(p) in ids for group in groups for p in group['params'])
            seen['trainable'] = any(p.requires_grad for p in reference.parameters())

    runner, _ = train('run', look)
    assert seen == dict(in_model=False, in_optimizer=False, trainable=False)
    # Look for the reference in the checkpoint.
    checkpoint = torch.load(Path(runner.work_dir) / 'epoch_2.pth', map_location='cpu', weights_only=False)
    assert set(checkpoint['state_dict']) == set(runner.model.state_dict())
    assert 'grqo_reference' not in checkpoint
    assert not list(Path(runner.work_dir).glob('*reference*'))


ALIGNED = {
    'model.prompts.language_model': dict(_delete_=True, type='WordHashModel'),
    'model.prompts.alignment': dict(_delete_=True, type='LanguageAlignment'),
    'model.prompts.text_prompts': 'class',
}


@pytest.mark.parametrize(
    ('at', 'refresh', 'model'),
    [(ITERS + 2, 1, {}), (2 * ITERS - 1, None, {}), (2 * ITERS, 1, {}), (2, 1, ALIGNED), (ITERS + 2, 1, ALIGNED)],
)
def test_resumed_training_equals_uninterrupted(train, at, refresh, model):
    """SIGTERM comes within an epoch, in its last or in its first iteration; also with aligned class names."""
    overrides = {'default_hooks.reference.refresh': refresh, **model}
    _, whole = train('whole', **overrides)

    def stop(runner):
        if runner.iter == at:
            os.kill(os.getpid(), signal.SIGTERM)

    _, first = train('parts', stop, **overrides)
    assert first.exit_code == 128 + signal.SIGTERM
    assert len(first.history) == at + 1
    _, second = train('parts', **overrides, resume=True)
    # All scalars of all iterations are bitwise equal.
    assert first.history + second.history == whole.history


def test_resume_without_reference_file_is_rejected(train, tmp_path):
    def stop(runner):
        if runner.iter == ITERS + 2:
            os.kill(os.getpid(), signal.SIGTERM)

    train('run', stop)
    (tmp_path / 'run' / 'grqo_reference.pth').unlink()
    with pytest.raises(InputError, match='grqo_reference.pth: no such file'):
        train('run', resume=True)


def test_load_from_starts_with_new_reference_model(train, tmp_path):
    """``load_from`` does not resume: the reference of the earlier run is neither needed nor used."""
    train('first', **{'default_hooks.reference.refresh': None})
    (tmp_path / 'first' / 'grqo_reference.pth').unlink()
    overrides = {'default_hooks.reference.warmup': 0, 'default_hooks.reference.mode': 'train'}
    overrides |= {'model.encoder.fusion.dropout': 0.0, 'train_cfg.max_epochs': 1}
    _, record = train('second', load_from=str(tmp_path / 'first' / 'epoch_2.pth'), **overrides)
    assert record.history[0]['grqo_kl'] < 1e-8


def test_grqo_resumed_from_sft_checkpoint_equals_whole_run(train, tmp_path):
    """In the demo, both arms share the first epoch."""
    _, whole = train('whole')
    train('sft', **{'default_hooks.reference.warmup': 99})
    _, rest = train('rest', resume=True, load_from=str(tmp_path / 'sft' / 'epoch_1.pth'))
    assert rest.history == whole.history[ITERS:]


def test_grqo_with_beta_zero_needs_no_reference_model(train):
    def look(runner):
        assert runner.model.reference is None

    _, record = train('run', look, **{'model.bbox_head.loss_grqo.beta': 0.0})
    assert record.history[-1]['grqo_kl'] == 0
    assert 'loss_grqo' in record.history[-1]


def test_grqo_without_hook_begins_at_once_with_beta_zero(train):
    without = dict(without=['reference'], **{'train_cfg.max_epochs': 1, 'model.bbox_head.loss_grqo.beta': 0.0})
    _, alone = train('alone', **without)
    assert len(alone.history) == ITERS
    assert all('loss_grqo' in scalars for scalars in alone.history)
    # The training is bitwise equal to one with the hook and without a warm-up.
    hook = {'default_hooks.reference.warmup': 0}
    _, hooked = train('hooked', **hook, **{key: value for key, value in without.items() if key != 'without'})
    assert alone.history == hooked.history


def test_grqo_without_hook_is_rejected_if_it_needs_reference(train):
    with pytest.raises(InputError, match=r"add default_hooks\.reference=dict\(type='ReferenceModelHook'\)") as error:
        train('run', without=['reference'])
    assert '\n' not in str(error.value)


def test_reference_model_hook_cleans_up_after_training(train):
    """After the training, the loss is enabled and nothing refers to the reference."""
    seen = []

    def look(runner):
        seen.append((runner.model.bbox_head.loss_grqo.enabled, runner.model.reference is not None))

    runner, _ = train('run', look, **{'train_cfg.max_epochs': 2})
    assert seen == [(False, False)] * ITERS + [(True, True)] * ITERS
    assert runner.model.bbox_head.loss_grqo.enabled
    assert runner.model.reference is None
    sft, _ = train('sft', **{'train_cfg.max_epochs': 1})
    assert sft.model.bbox_head.loss_grqo.enabled


def test_clipped_objective_needs_reference_model_with_beta_zero(train):
    """The ratio to the model itself is always 1; to a reference of another iteration it is not."""
    seen = []

    def look(runner):
        seen.append(runner.model.reference is not None)

    _, record = train(
        'run', look, **{'model.bbox_head.loss_grqo.beta': 0.0, 'model.bbox_head.loss_grqo.objective': 'clipped'}
    )
    assert seen == [False] * ITERS + [True] * 2 * ITERS
    assert record.history[-1]['grqo_kl'] > 0


def test_reference_model_hook_rejects_epochs_in_iteration_loop(train):
    loop = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
    with pytest.raises(InputError, match='by_epoch=False'):
        train('run', train_cfg=dict(_delete_=True, **loop))


def test_reference_model_hook_warns_if_grqo_never_begins(train, tmp_path):
    _, record = train('run', **{'default_hooks.reference.warmup': 3, 'log_level': 'WARNING'})
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert 'GRQO never begins: warmup=3, and the training ends after 3 epochs' in log.read_text()
    assert not any('loss_grqo' in scalars for scalars in record.history)


def test_reference_model_hook_warns_of_emulated_bfloat16(train, monkeypatch):
    """Such a GPU is simulated by replaced functions of torch."""
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Old GPU')

    runner, _ = train('run', **{'train_cfg.max_epochs': 1})
    on_gpu = SimpleNamespace(device=torch.device('cuda'))
    monkeypatch.setattr(runner.model, 'parameters', lambda: iter([on_gpu]))
    said = []
    monkeypatch.setattr(runner.logger, 'warning', said.append)
    for dtype in ('float16', None, 'bfloat16'):
        ReferenceModelHook(warmup=0, dtype=dtype).before_train(runner)
    assert len(said) == 1
    assert 'Old GPU only emulates bfloat16' in said[0]


def test_reference_model_hook_by_iteration(train):
    _, record = train(
        'run', **{'default_hooks.reference': dict(type='ReferenceModelHook', warmup=4, refresh=3, by_epoch=False)}
    )
    assert ['loss_grqo' in scalars for scalars in record.history] == [False] * 4 + [True] * (3 * ITERS - 4)


def test_graceful_stop_waits_for_optimizer_step(train):
    """A stop waits for the optimizer's step; otherwise accumulated gradients would be lost."""
    overrides = {'optim_wrapper.accumulative_counts': 2}
    _, whole = train('whole', **overrides)
    assert len(whole.history) == 3 * ITERS

    def stop(runner):
        if runner.iter == ITERS + 2:  # the first iteration of a pair
            os.kill(os.getpid(), signal.SIGTERM)

    _, first = train('parts', stop, **overrides)
    assert len(first.history) == ITERS + 4
    _, second = train('parts', **overrides, resume=True)
    assert first.history + second.history == whole.history


def test_graceful_stop_ignores_immediate_second_sigterm(train, tmp_path):
    """A scheduler sends a signal to every process, and a launcher forwards the signal that it received."""

    def stop(runner):
        if runner.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    _, record = train('run', stop)
    assert record.exit_code == 128 + signal.SIGTERM
    assert (tmp_path / 'run' / 'iter_3.pth').is_file()


def test_graceful_stop_late_second_sigterm_ends_process(monkeypatch):
    """A second signal after a while is not a duplicate of the first one, and ends the process."""
    hook, now, sent = GracefulStopHook(), [0.0], []
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    monkeypatch.setattr(signal, 'raise_signal', sent.append)
    before = signal.getsignal(signal.SIGTERM)
    try:
        hook.before_train(SimpleNamespace(train_loop=None, val_loop=None))
        for now[0] in (0.0, 4.0, 6.0):
            signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)  # call the handler of the hook
        assert sent == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_has_stepped_with_optimizers_that_never_step_together():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    wrappers = [OptimWrapper(torch.optim.SGD([w], lr=0.1), accumulative_counts=2) for w in weights]
    wrappers[0]._inner_count = 1
    runner = SimpleNamespace(optim_wrapper=OptimWrapperDict(a=wrappers[0], b=wrappers[1]))
    assert [has_stepped(runner, awaited) for awaited in (1, 2)] == [False, True]


def test_graceful_stop_second_ctrl_c_ends_at_once(train):
    def stop(runner):
        if runner.iter == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train('run', stop)


def test_vanishing_reward_is_rejected_before_first_iteration(train):
    with pytest.raises(InputError, match='vanish'):
        train('run', **{'model.num_queries': 1})


def test_reference_model_hook_rejects_model_without_grqo(train):
    class Runner:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(InputError, match='Linear has no GRQO'):
        ReferenceModelHook().before_train(Runner)
    # A DINOR1 without the loss in its head is rejected too.
    with pytest.raises(InputError, match="DINOR1 has no GRQO; .*loss_grqo=dict\\(type='GRQOLoss'\\)"):
        train('run', **{'model.bbox_head.loss_grqo': None})


@pytest.mark.parametrize('arguments', [dict(mode='other'), dict(dtype='float8'), dict(warmup=-1), dict(refresh=0)])
def test_reference_model_hook_bad_arguments(arguments):
    with pytest.raises(InputError):
        ReferenceModelHook(**arguments)


def test_integer_macs_exclude_reference_model(train):
    """The integer share is that of the trained model, with and without a reference."""
    converters = [dict(type='IntegerTraining', bits=(8, 8, 8), skip=['re:bbox_head.*'])]
    shares = []
    for warmup in (99, 0):
        options = {'default_hooks.reference.warmup': warmup, 'train_cfg.max_epochs': 1}
        runner, record = train(f'warmup{warmup}', model_converters=converters, **options)
        assert ('loss_grqo' in record.history[0]) == (warmup == 0)
        shares.append(runner.message_hub.get_scalar('train/integer_macs').current())
    assert shares[0] == shares[1]
    assert 0.1 < shares[0] < 1
