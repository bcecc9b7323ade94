"""Reference arrays from the public code of arXiv 2310.11366, and test matrices."""

import math

import numpy as np
import pytest
import torch


@pytest.fixture(scope='session')
def oracle(shared_dir):
    """Name -> tensor, as stored (float32 or float64)."""
    with np.load(shared_dir / 'oracles/lie_group_conv_public.npz') as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def random_matrices(count=1000, n=2, condition=1e3, determinant=None, seed=0):
    """Float64 matrices of positive determinant with condition numbers up to ``condition``."""
    generator = torch.Generator().manual_seed(seed)

    def orthogonal():
        return torch.linalg.qr(torch.randn(count, n, n, generator=generator, dtype=torch.float64))[0]

    exponents = torch.rand(count, n, generator=generator, dtype=torch.float64) - 0.5
    a = (orthogonal() * (exponents * math.log(condition)).exp().unsqueeze(1)) @ orthogonal()
    a[:, 0] *= torch.linalg.det(a).sign()[:, None]
    if determinant is not None:
        a = a * (determinant / torch.linalg.det(a))[:, None, None] ** (1 / n)
    return a


@pytest.fixture
def matrices():
    """1,000 random matrices of GL+(2), and hard cases."""
    hard = [
        [[1, 0], [0, 1]],
        [[-1, 0], [0, -1]],
        [[0, -1], [1, 0]],
        [[-2, 0], [0, -3]],
        [[100, 0], [0, 0.01]],
        [[1, 5], [0, 1]],
    ]
    return torch.cat([random_matrices(), torch.tensor(hard, dtype=torch.float64)])
