"""The stage switch and the reference model, inside real runs of the Runner."""

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


def test_sft_then_grqo(train):
    runner, record = train('run')
    has_term = ['loss_grqo' in scalars for scalars in record.history]
    assert has_term == [False] * ITERS + [True] * 2 * ITERS
    for name in ('reward_mean', 'reward_std', 'advantage_matched', 'advantage_unmatched', 'kl', 'objectness_entropy'):
        assert f'grqo_{name}' in record.history[-1]
    assert all(value == value and abs(value) < 1e6 for scalars in record.history for value in scalars.values())
    # matched queries are better than the rest by construction of the reward
    assert record.history[-1]['grqo_advantage_matched'] > record.history[-1]['grqo_advantage_unmatched']


def test_kl_is_zero_in_the_first_iteration_after_each_refresh(train):
    """Student and reference in the same mode, without dropout, see the same prompts and have the same weights."""
    overrides = {
        'default_hooks.reference.mode': 'train',
        'model.encoder.fusion.dropout': 0.0,
    }
    _, record = train('run', **overrides)
    kl = [scalars['grqo_kl'] for scalars in record.history[ITERS:]]
    # The reference computes the last layer for the selected tokens alone, and so rounds another way: the KL is
    # quadratic in differences of 1e-5.
    assert kl[0] < 1e-8
    assert kl[ITERS] < 1e-8
    assert kl[1] > 1e-6
    assert kl[ITERS + 1] > 1e-6


def test_the_reference_is_outside_of_model_optimizer_and_checkpoint(train):
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
def test_interrupted_and_resumed_equals_uninterrupted(train, at, refresh, model):
    """SIGTERM in the middle of an epoch, in its last and in its first iteration; also with aligned class names."""
    overrides = {'default_hooks.reference.refresh': refresh, **model}
    _, whole = train('whole', **overrides)

    def stop(runner):
        if runner.iter == at:
            os.kill(os.getpid(), signal.SIGTERM)

    _, first = train('parts', stop, **overrides)
    assert first.exit_code == 128 + signal.SIGTERM
    assert len(first.history) == at + 1
    _, second = train('parts', **overrides, resume=True)
    # Bit-equal, every loss and figure of every iteration.
    assert first.history + second.history == whole.history


def test_resume_without_the_reference_is_refused(train, tmp_path):
    def stop(runner):
        if runner.iter == ITERS + 2:
            os.kill(os.getpid(), signal.SIGTERM)

    train('run', stop)
    (tmp_path / 'run' / 'grqo_reference.pth').unlink()
    with pytest.raises(InputError, match='grqo_reference.pth: no such file'):
        train('run', resume=True)


def test_weights_alone_begin_with_a_reference_of_their_own(train, tmp_path):
    """``load_from`` is no resumption: nothing of the reference of that run is needed, or used."""
    train('first', **{'default_hooks.reference.refresh': None})
    (tmp_path / 'first' / 'grqo_reference.pth').unlink()
    overrides = {'default_hooks.reference.warmup': 0, 'default_hooks.reference.mode': 'train'}
    overrides |= {'model.encoder.fusion.dropout': 0.0, 'train_cfg.max_epochs': 1}
    _, record = train('second', load_from=str(tmp_path / 'first' / 'epoch_2.pth'), **overrides)
    assert record.history[0]['grqo_kl'] < 1e-8


def test_grqo_from_the_checkpoint_of_sft_equals_a_run_of_its_own(train, tmp_path):
    """What the demo does: both arms share the first epoch."""
    _, whole = train('whole')
    train('sft', **{'default_hooks.reference.warmup': 99})
    _, rest = train('rest', resume=True, load_from=str(tmp_path / 'sft' / 'epoch_1.pth'))
    assert rest.history == whole.history[ITERS:]


def test_beta_zero_needs_no_reference(train):
    def look(runner):
        assert runner.model.reference is None

    _, record = train('run', look, **{'model.bbox_head.loss_grqo.beta': 0.0})
    assert record.history[-1]['grqo_kl'] == 0
    assert 'loss_grqo' in record.history[-1]


def test_without_the_hook_grqo_begins_at_once_if_nothing_needs_a_reference(train):
    without = dict(without=['reference'], **{'train_cfg.max_epochs': 1, 'model.bbox_head.loss_grqo.beta': 0.0})
    _, alone = train('alone', **without)
    assert len(alone.history) == ITERS
    assert all('loss_grqo' in scalars for scalars in alone.history)
    # What the hook would do without a warm-up, to the bit.
    hook = {'default_hooks.reference.warmup': 0}
    _, hooked = train('hooked', **hook, **{key: value for key, value in without.items() if key != 'without'})
    assert alone.history == hooked.history


def test_without_the_hook_a_loss_that_needs_a_reference_is_refused(train):
    with pytest.raises(InputError, match=r"add default_hooks\.reference=dict\(type='ReferenceModelHook'\)") as error:
        train('run', without=['reference'])
    assert '\n' not in str(error.value)


def test_a_plain_model_is_left_behind(train):
    """After the training the loss takes part again and nothing refers to the reference."""
    seen = []

    def look(runner):
        seen.append((runner.model.bbox_head.loss_grqo.enabled, runner.model.reference is not None))

    runner, _ = train('run', look, **{'train_cfg.max_epochs': 2})
    assert seen == [(False, False)] * ITERS + [(True, True)] * ITERS
    assert runner.model.bbox_head.loss_grqo.enabled
    assert runner.model.reference is None
    sft, _ = train('sft', **{'train_cfg.max_epochs': 1})
    assert sft.model.bbox_head.loss_grqo.enabled


def test_the_clipped_ratio_needs_a_reference_without_kl_too(train):
    """Against itself the ratio is 1 and never clips; against a reference of another iteration it is not."""
    seen = []

    def look(runner):
        seen.append(runner.model.reference is not None)

    _, record = train(
        'run', look, **{'model.bbox_head.loss_grqo.beta': 0.0, 'model.bbox_head.loss_grqo.objective': 'clipped'}
    )
    assert seen == [False] * ITERS + [True] * 2 * ITERS
    assert record.history[-1]['grqo_kl'] > 0


def test_epochs_are_refused_where_there_are_none(train):
    loop = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
    with pytest.raises(InputError, match='by_epoch=False'):
        train('run', train_cfg=dict(_delete_=True, **loop))


def test_a_warmup_without_end_is_said(train, tmp_path):
    _, record = train('run', **{'default_hooks.reference.warmup': 3, 'log_level': 'WARNING'})
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert 'GRQO never begins: warmup=3, and the training ends after 3 epochs' in log.read_text()
    assert not any('loss_grqo' in scalars for scalars in record.history)


def test_a_gpu_that_emulates_half_precision_is_named(train, monkeypatch):
    """There is no such GPU here: the parts that are asked for say that there is."""
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


def test_by_iteration(train):
    _, record = train(
        'run', **{'default_hooks.reference': dict(type='ReferenceModelHook', warmup=4, refresh=3, by_epoch=False)}
    )
    assert ['loss_grqo' in scalars for scalars in record.history] == [False] * 4 + [True] * (3 * ITERS - 4)


def test_gradient_accumulation(train):
    """A stop waits for the optimizer's step, or the gradients of the iterations before it would be lost."""
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


def test_a_second_sigterm_does_not_cut_the_checkpoint_short(train, tmp_path):
    """A scheduler signals every process, and a launcher passes its own signal on."""

    def stop(runner):
        if runner.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    _, record = train('run', stop)
    assert record.exit_code == 128 + signal.SIGTERM
    assert (tmp_path / 'run' / 'iter_3.pth').is_file()


def test_a_late_second_sigterm_is_meant(monkeypatch):
    """A second request after a while is not a duplicate of the first: the process ends."""
    hook, now, sent = GracefulStopHook(), [0.0], []
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    monkeypatch.setattr(signal, 'raise_signal', sent.append)
    before = signal.getsignal(signal.SIGTERM)
    try:
        hook.before_train(SimpleNamespace(train_loop=None, val_loop=None))
        for now[0] in (0.0, 4.0, 6.0):
            signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)  # what the hook has installed
        assert sent == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_two_optimizers_that_never_step_together_do_not_keep_a_run_alive():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    wrappers = [OptimWrapper(torch.optim.SGD([w], lr=0.1), accumulative_counts=2) for w in weights]
    wrappers[0]._inner_count = 1
    runner = SimpleNamespace(optim_wrapper=OptimWrapperDict(a=wrappers[0], b=wrappers[1]))
    assert [has_stepped(runner, awaited) for awaited in (1, 2)] == [False, True]


def test_a_second_ctrl_c_ends_at_once(train):
    def stop(runner):
        if runner.iter == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train('run', stop)


def test_a_vanishing_reward_is_refused_before_the_first_iteration(train):
    with pytest.raises(InputError, match='vanish'):
        train('run', **{'model.num_queries': 1})


def test_a_model_without_grqo_is_refused(train):
    class Runner:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(InputError, match='Linear has no GRQO'):
        ReferenceModelHook().before_train(Runner)
    # The right detector, but its head has no such loss.
    with pytest.raises(InputError, match="DINOR1 has no GRQO; .*loss_grqo=dict\\(type='GRQOLoss'\\)"):
        train('run', **{'model.bbox_head.loss_grqo': None})


@pytest.mark.parametrize('arguments', [dict(mode='other'), dict(dtype='float8'), dict(warmup=-1), dict(refresh=0)])
def test_bad_arguments(arguments):
    with pytest.raises(InputError):
        ReferenceModelHook(**arguments)


def test_integer_macs_leave_the_reference_out(train):
    """The integer share is that of the trained model, whether or not a reference runs beside it."""
    converters = [dict(type='IntegerTraining', bits=(8, 8, 8), skip=['re:bbox_head.*'])]
    shares = []
    for warmup in (99, 0):
        options = {'default_hooks.reference.warmup': warmup, 'train_cfg.max_epochs': 1}
        runner, record = train(f'warmup{warmup}', model_converters=converters, **options)
        assert ('loss_grqo' in record.history[0]) == (warmup == 0)
        shares.append(runner.message_hub.get_scalar('train/integer_macs').current())
    assert shares[0] == shares[1]
    assert 0.1 < shares[0] < 1
