"""Memory of earlier prompts and text iterations, in real runs of the Runner and on two processes."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import MMDistributedDataParallel

from dinor1.engine import PromptMemoryHook
from dinor1.models.prompts import class_prototypes, prompt_mode, save_class_embeddings
from dinor1.utils.distributed import gather_rows, rank_gather
from dinor1.utils.errors import InputError
from tests.conftest import tiny_config
from tests.two_processes import join, leave, run

ITERS = 3  # per epoch, of four images
AGGREGATING = {
    'model.prompts.encoder': dict(_delete_=True, type='AggregatingPromptEncoder', num_layers=1),
    'model.prompts.prompt_sampling': 'class_prototype',
    'model.prompts.prompt_gather': 'world',
    'model.encoder.fusion.dropout': 0.0,
    'default_hooks.prompt_memory': dict(type='PromptMemoryHook', length=3, classes_per_step=4),
}
SHORT = {'train_dataloader.dataset.indices': 4 * ITERS, 'train_cfg.max_epochs': 2, 'param_scheduler.0.total_steps': 2}


@pytest.fixture
def text_iterations(tiny_run_config, tmp_path):
    """Settings of a run with text iterations: embeddings of the classes of the shapes world in a file."""
    from dinor1.registry import DATASETS

    names = DATASETS.build(tiny_run_config.train_dataloader.dataset).metainfo['classes']
    save_class_embeddings(tmp_path / 'names.safetensors', names, torch.randn(len(names), 7))
    return {
        'model.prompts.class_embeddings': str(tmp_path / 'names.safetensors'),
        'model.prompts.prompt_mode_schedule': 'random',
        'model.prompts.text_prompts': 'class',
    }


def test_resumed_run_equals_uninterrupted_one(train, text_iterations):
    """Memory and modes are those of a run without interruption, within an epoch of GRQO."""

    def stop(runner):
        if runner.iter == ITERS:
            os.kill(os.getpid(), signal.SIGTERM)

    overrides = AGGREGATING | text_iterations | SHORT | {'default_hooks.reference.mode': 'train'}
    modes = []
    runner, whole = train('whole', lambda runner: modes.append(runner.model.prompt_mode), **overrides)
    _, first = train('parts', stop, **overrides)
    assert len(first.history) == ITERS + 1
    resumed, second = train('parts', **overrides, resume=True)
    assert first.history + second.history == whole.history
    # The memories are bitwise identical, and not empty.
    states = []
    for one in (runner, resumed):
        checkpoint = torch.load(Path(one.work_dir) / 'epoch_2.pth', map_location='cpu', weights_only=False)
        states.append(checkpoint['prompt_memory'])
        assert one.model.prompt_memory is None
    assert states[0].keys() == states[1].keys()
    assert sum(len(prompts['images']) for prompts in states[0].values()) > ITERS
    for name, prompts in states[0].items():
        assert len(prompts['images']) <= 3
        assert prompts['images'] == states[1][name]['images']
        assert torch.equal(prompts['embeddings'], states[1][name]['embeddings'])
    # Both modes occurred, as the schedule says.
    expected = [prompt_mode('random', runner.seed, i) for i in range(2 * ITERS)]
    assert modes == expected
    assert {'visual', 'text'} == set(expected)
    # The reference model has the same prompts, also from the memory: its KL is zero in the iteration of its refresh,
    # up to rounding.
    assert whole.history[ITERS]['grqo_kl'] < 1e-8
    assert whole.history[ITERS + 1]['grqo_kl'] > 1e-6


def test_memory_adds_prompts_from_the_second_iteration(train):
    counts = []

    def count(runner):
        encoder = runner.model.encoder
        if not counts and runner.iter == 0:
            encoder.register_forward_pre_hook(lambda _, args: counts.append(args[1].embeddings.shape[1]))

    overrides = SHORT | {'train_cfg.max_epochs': 1, 'param_scheduler.0.total_steps': 1}
    train('without', count, **overrides)
    without, counts[:] = list(counts), []
    memory = {'default_hooks.prompt_memory': dict(type='PromptMemoryHook', classes_per_step=4)}
    runner, _ = train('with', count, **overrides, **memory)
    assert counts[0] == without[0]
    # The batches show many of the 16 classes, so that at least four are known after the first.
    assert [more - few for more, few in zip(counts[1:], without[1:], strict=True)] == [4] * (ITERS - 1)
    hook = next(hook for hook in runner.hooks if isinstance(hook, PromptMemoryHook))
    assert hook.memory.pending == []


def test_missing_class_embedding_ends_run_before_its_first_iteration(train, text_iterations, tmp_path):
    save_class_embeddings(tmp_path / 'names.safetensors', ['unicorn'], torch.randn(1, 7))
    with pytest.raises(InputError, match=r'has no embedding in .*names\.safetensors; rename it'):
        train('run', without=('reference',), **text_iterations)
    assert not list((tmp_path / 'run').glob('*.pth'))


# Two processes ----------------------------------------------------------------------------------------------

# Rows and labels of each process, and the weights of the prototypes in its loss.
ROWS = {0: [[1.0, 2], [0, 1], [4, -1]], 1: [[3.0, 5]]}
LABELS = {0: [2, 7, 2], 1: [7]}
WEIGHTS = {0: [[1.0, -2], [0.5, 3]], 1: [[2.0, 1], [-1, 0.25]]}


def prototypes_of_both(rank: int, port: int, queue) -> None:
    """Prototypes of the rows of both processes, and the gradient of this process's rows."""
    join(rank, port)
    rows = torch.tensor(ROWS[rank], dtype=torch.float64, requires_grad=True)
    gather = rank_gather()
    labels = torch.tensor([label for part in gather.objects(LABELS[rank]) for label in part])
    means, classes = class_prototypes(gather_rows(rows), labels)
    (means * torch.tensor(WEIGHTS[rank])).sum().backward()
    queue.put((rank, means.detach().numpy(), classes.tolist(), rows.grad.numpy()))
    leave()


def test_prototypes_of_two_processes_equal_those_of_one():
    found = run(prototypes_of_both)
    rows = torch.tensor(ROWS[0] + ROWS[1], dtype=torch.float64, requires_grad=True)
    means, classes = class_prototypes(rows, torch.tensor(LABELS[0] + LABELS[1]))
    # Gradients of the losses of both processes are summed.
    (means * (torch.tensor(WEIGHTS[0]) + torch.tensor(WEIGHTS[1]))).sum().backward()
    for _, values, labels, _ in found:
        assert labels == classes.tolist()
        np.testing.assert_allclose(values, means.detach(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.concatenate([grad for *_, grad in found]), rows.grad, rtol=0, atol=1e-12)


def encoder_prompts(model, batch) -> torch.Tensor:
    """Prompts (bs, K, C) of a training batch, before the encoder of the detector."""
    given = []
    handle = model.encoder.register_forward_pre_hook(lambda _, args: given.append(args[1].embeddings))
    model.loss(*batch)
    handle.remove()
    return given[0]


def detector_step(rank: int, port: int, cfg, batches, queue) -> None:
    """The prompts of a batch with those of both processes, and two steps of DDP; the second process has no box."""
    join(rank, port)
    import dinor1
    from dinor1.registry import MODELS

    dinor1.register_all()
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.backbone.eval()
    model.rank_gather = rank_gather()
    prompts = encoder_prompts(model, batches['both'][rank])
    # Without find_unused_parameters, DDP fails in the second step if a parameter got no gradient in the first.
    wrapped = MMDistributedDataParallel(model)
    for _ in range(2):
        wrapped.zero_grad()
        loss, _ = model.parse_losses(wrapped(*batches['one'][rank], mode='loss'))
        loss.backward()
    gradient = model.prompt_encoder.exemplar_content.grad
    queue.put((rank, prompts.detach().numpy(), loss.item(), gradient.numpy()))
    leave()


@pytest.mark.slow
@pytest.mark.parametrize('exclude_self', [False, True])
def test_prompts_of_two_processes_equal_those_of_one(make_batch, exclude_self):
    settings = AGGREGATING | {
        'model.prompts.encoder': dict(type='AggregatingPromptEncoder', num_layers=1),
        'model.prompts.exclude_self': exclude_self,
    }
    cfg = tiny_config(**{key: value for key, value in settings.items() if key.startswith('model')})
    # One box per image and class, so that nothing is drawn.
    inputs, samples = make_batch((2, 1, 2, 1))
    for sample, labels in zip(samples, ([1, 4], [4], [4, 6], [1]), strict=True):
        sample.gt_instances.labels = torch.tensor(labels)
    both = {0: (inputs[:2], samples[:2]), 1: (inputs[2:], samples[2:])}
    one = {0: both[0], 1: make_batch((0, 0), seed=1)}
    found = run(detector_step, cfg, dict(both=both, one=one))
    # Compare with one process that has all four images.
    from dinor1.registry import MODELS

    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.backbone.eval()
    model.rank_gather = rank_gather()
    expected = encoder_prompts(model, (inputs, samples)).detach()
    assert expected.shape == (4, 3, 32)
    together = np.concatenate([prompts for _, prompts, *_ in found])
    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-5)
    # Both processes end with the same gradients.
    assert all(np.isfinite(loss) for _, _, loss, _ in found)
    assert np.abs(found[0][3]).sum() > 0
    np.testing.assert_array_equal(found[0][3], found[1][3])
