"""Two processes with gloo, wrapped as in MMEngine: equal with ``sync``, different without."""

import copy
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dinor1.blocks.normalization import PowerNorm, UnifiedNorm

C, STEPS = 6, 8
LAYERS = {
    'pn': (PowerNorm, dict(warmup_iters=3, group_num=2)),
    'pn-exact': (PowerNorm, dict(approx_backward=False, group_num=None)),
    'un': (UnifiedNorm, dict(warmup_iters=3, window_size=2, renorm_after=4)),
    'un-filter': (UnifiedNorm, dict(warmup_iters=5, window_size=4, outlier_filtration=True)),
    'pn-padding': (PowerNorm, dict(warmup_iters=3)),
    'un-padding': (UnifiedNorm, dict(warmup_iters=3, exact_padding=True)),
}


def build(name: str, sync: bool) -> torch.nn.Module:
    norm, arguments = LAYERS[name]
    layer = norm(C, sync=sync, **arguments).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 1.5, C))
    return layer


def data(name: str, step: int) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Input, output gradient and mask of both processes; three and two images, and 0 for the second at step 4."""
    generator = torch.Generator().manual_seed(step)
    parts = []
    for images in (3, 0 if step == 4 else 2):
        x = torch.randn(images, 5, C, generator=generator, dtype=torch.float64) * torch.linspace(0.5, 2, C)
        grad = torch.randn(images, 5, C, generator=generator, dtype=torch.float64)
        # An outlier that only one process has.
        x = x * 60 if images == 2 and step == 6 else x
        mask = torch.rand(images, 5, generator=generator) < 0.4
        # At step 2 the first process sees padding only, at step 5 both do.
        mask = mask | (step == 5 or (step == 2 and images == 3))
        parts.append((x, grad, mask if 'padding' in name else None))
    return parts


def train(layer: torch.nn.Module, forward, batches) -> dict:
    """Train; returns results of every step and the final state."""
    outputs, gradients, weights = [], [], []
    for x, grad, mask in batches:
        layer.zero_grad()
        x = x.clone().requires_grad_()
        y = forward(x) if mask is None else forward(x, mask)
        y.backward(grad)
        outputs.append(y.detach())
        gradients.append(x.grad)
        weights.append(layer.weight.grad.clone())
    state = {name: value.clone() for name, value in layer.named_buffers()}
    return dict(outputs=outputs, gradients=gradients, weights=weights, state=state)


def worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR='localhost', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE='2')
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    results = {}
    for name in LAYERS:
        for sync in (True, False):
            layer = build(name, sync)
            wrapped = DistributedDataParallel(layer, broadcast_buffers=False)
            results[name, sync] = train(layer, wrapped, [data(name, step)[rank] for step in range(STEPS)])
    torch.save(results, f'{folder}/{rank}.pt')
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def results(tmp_path_factory) -> list[dict]:
    """Reports of both processes for every layer, with and without ``sync``."""
    folder = tmp_path_factory.mktemp('sync')
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    context = mp.get_context('spawn')
    processes = [context.Process(target=worker, args=(rank, port, str(folder))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0
    return [torch.load(folder / f'{rank}.pt', weights_only=False) for rank in range(2)]


def single_process(name: str) -> dict:
    """Train one process on both batches joined."""

    def joined(step):
        xs, grads, masks = zip(*data(name, step), strict=True)
        return torch.cat(xs), torch.cat(grads), None if masks[0] is None else torch.cat(masks)

    layer = build(name, sync=False)
    return train(layer, layer, [joined(step) for step in range(STEPS)])


def assert_close(actual, expected):
    # Float64 sums over 25 positions in another order, eight steps.
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize('name', LAYERS)
def test_norm_sync_two_processes_equal_one(results, name):
    first, second = (result[name, True] for result in results)
    expected = single_process(name)
    assert_close(first['state'], expected['state'])
    assert_close(second['state'], expected['state'])
    for step in range(STEPS):
        for key in ('outputs', 'gradients'):
            assert_close(torch.cat([first[key][step], second[key][step]]), expected[key][step])
        # DistributedDataParallel averages over processes; the loss of the single process is the sum.
        assert_close(2 * first['weights'][step], expected['weights'][step])
        assert_close(2 * second['weights'][step], expected['weights'][step])
    if name == 'un-filter':
        assert expected['state']['skip_counter'] >= 1
    if 'padding' in name:
        assert expected['state']['iters'] == STEPS - 1


@pytest.mark.parametrize('name', LAYERS)
def test_norm_without_sync_processes_differ(results, name):
    first, second = (copy.copy(result[name, False]['state']) for result in results)
    # The second process had an empty batch, which does not count as a step.
    assert first['iters'] != second['iters'] or 'padding' in name
    key = 'running_phi' if name.startswith('pn') else 'running_var'
    assert (first[key] - second[key]).abs().max() > 1e-3
    assert all(value.isfinite().all() for state in (first, second) for value in state.values())
