"""Two processes with gloo whose generators differ: replicas draw the same samples, in training and evaluation."""

import torch

from dinor1.blocks.lie import AffineEquivariantNet, resample
from tests.two_processes import join, leave, run


def draws(rank: int, port: int, queue) -> None:
    join(rank, port)
    torch.manual_seed(rank)
    net = AffineEquivariantNet('gl2', width=2, n_samples=3, kernel=dict(hidden=4))
    sets = [net.train(mode).draw() for mode in (True, False)]
    resample(net, 7)
    sets.append(net.draw())
    queue.put((rank, [samples.g.tolist() for pair in sets for samples in pair], torch.rand(1).item()))
    leave()


def test_sampler_replicas_without_seed_agree():
    first, second = run(draws)
    # The generators themselves stay different, as data loaders and dropout need.
    assert first[1] == second[1]
    assert first[2] != second[2]
