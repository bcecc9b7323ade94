"""Weights split by FSDP: the test covers the whole weight, or there is a warning."""

import copy
import socket
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from dinor1.blocks.adamp import SGDP, AdamP

OPTIMIZERS = dict(
    AdamP=(AdamP, dict(lr=0.01, weight_decay=0.01)),
    SGDP=(SGDP, dict(lr=0.01, momentum=0.9, weight_decay=0.01)),
)


def train(net, name):
    """Views that were projected in each of five steps."""
    make, kwargs = OPTIMIZERS[name]
    optimizer, inputs, stats = make(net.parameters(), **kwargs), torch.ones(4, 6).cumsum(1).sin(), []
    for _ in range(5):
        optimizer.zero_grad()
        (net(inputs) - 1).square().sum().backward()
        optimizer.step()
        stats.append(optimizer.projection_stats())
    return stats


def worker(rank, port, net, queue):
    torch.set_num_threads(1)
    store = f'tcp://127.0.0.1:{port}'
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    # Train with weights sharded by rows.
    for name in OPTIMIZERS:
        sharded = copy.deepcopy(net)
        fully_shard(sharded, mesh=init_device_mesh('cpu', (2,)))
        stats = train(sharded, name)
        queue.put((rank, name, stats, [p.full_tensor().detach().numpy() for p in sharded.parameters()]))
    # Record the warnings for flattened weights.
    for use_orig_params in (False, True):
        flat = FullyShardedDataParallel(
            copy.deepcopy(net), device_id=torch.device('cpu'), use_orig_params=use_orig_params
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            AdamP(flat.parameters())
        queue.put((rank, 'warned', use_orig_params, [str(w.message) for w in caught]))
    dist.barrier()
    dist.destroy_process_group()


def test_sharded_optimizer_two_processes_equal_one():
    # LayerNorm makes the first matrix scale-invariant as a whole; neither process holds the whole of it.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.LayerNorm(4), nn.Linear(4, 2))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    context = mp.get_context('spawn')
    queue = context.Queue()
    processes = [context.Process(target=worker, args=(rank, port, net, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in range(8)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for name in OPTIMIZERS:
        whole = copy.deepcopy(net)
        expected = train(whole, name)
        assert all(entry['layer'] >= 1 for entry in expected)
        for _, _, stats, weights in [entry for entry in found if entry[1] == name]:
            assert stats == expected
            for a, b in zip(weights, whole.parameters(), strict=True):
                # Float32 sums in two parts; Adam divides by the root of gradients that may be near 0.
                torch.testing.assert_close(torch.from_numpy(a), b.detach(), rtol=0, atol=1e-5)
    # The older FSDP has no rows: nothing is projected, and a warning says so.
    for _, _, _, messages in [entry for entry in found if entry[1] == 'warned']:
        assert any('AdamP: FSDP has flattened the parameters' in message for message in messages)
