"""The similarity ratio compared with an oracle and a case by hand, entropy compared with scipy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from dinor1.evaluation import bernoulli_entropy, iisr


def test_iisr_of_one_prompt_is_nan():
    values = iisr(torch.ones(1, 4), torch.zeros(1, dtype=torch.long))
    assert values.pop('clamped') == 0
    assert all(math.isnan(value) for value in values.values())


@pytest.mark.shared
def test_iisr_equals_oracle(shared_dir):
    with np.load(shared_dir / 'oracles/strong_vp_public.npz') as file:
        cases = sorted({key.split('/')[0] for key in file.files if key.startswith('iisr')})
        assert cases
        for case in cases:
            values = iisr(torch.from_numpy(file[f'{case}/prompts']), torch.from_numpy(file[f'{case}/labels']))
            values['iisr_proto'] = values.pop('iisr')
            assert values.pop('clamped') == 0
            for name, value in values.items():
                # Tolerance of the oracle.
                assert value == pytest.approx(float(file[f'{case}/{name}']), abs=1e-9)


def test_iisr_equals_hand_computation():
    """Two prompts of one class at 60 degrees, one of another class at a right angle to both."""
    prompts = torch.tensor([[1.0, 0, 0], [0.5, 3**0.5 / 2, 0], [0, 0, 2.0]])
    values = iisr(prompts, torch.tensor([7, 7, 3]))
    assert values['intra'] == pytest.approx(0.5, abs=1e-7)
    assert values['inter_pair'] == values['inter_proto'] == 0
    assert values['iisr'] == pytest.approx(0.5e6, rel=1e-6)
    assert values['clamped'] == 1


def test_iisr_does_not_depend_on_order_and_labels():
    prompts, labels = torch.randn(12, 5), torch.arange(12) % 3
    order = torch.randperm(12)
    expected = iisr(prompts, labels)
    assert iisr(prompts[order], 10 - 2 * labels[order]) == pytest.approx(expected, rel=1e-12)


def test_bernoulli_entropy_equals_scipy():
    logits = torch.linspace(-30, 30, 61, dtype=torch.float64)
    expected = [scipy.stats.bernoulli(p).entropy() for p in torch.sigmoid(logits).tolist()]
    # scipy computes 1 - p, which loses digits near 1.
    np.testing.assert_allclose(bernoulli_entropy(logits), expected, rtol=1e-3, atol=1e-12)
    assert bernoulli_entropy(torch.zeros(1)).item() == pytest.approx(math.log(2))
    extremes = torch.tensor([float('inf'), float('-inf'), 1e30, -1e30])
    assert torch.equal(bernoulli_entropy(extremes), torch.zeros(4))
