"""Reference numbers for the norms."""

import json

import pytest
import torch


class Oracle:
    """``oracle['case/step0/x']`` as a tensor; ``oracle.cfg('case')`` as a dict."""

    def __init__(self, path) -> None:
        import numpy as np

        with np.load(path) as arrays:
            self.arrays = dict(arrays)

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key].copy())

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def cfg(self, case: str) -> dict:
        return json.loads(str(self.arrays[f'{case}/cfg']))

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        """Arrays directly under ``prefix``, by the last part of their names."""
        start = prefix + '/'
        return {
            key[len(start) :]: self[key]
            for key in self.arrays
            if key.startswith(start) and '/' not in key[len(start) :] and self.arrays[key].dtype.kind != 'U'
        }


@pytest.fixture(scope='session')
def oracle(shared_dir) -> Oracle:
    return Oracle(shared_dir / 'oracles' / 'normalization_public.npz')


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: tensors of a few hundred numbers gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the largest expected entry."""
    difference = (actual.detach().reshape(expected.shape).double() - expected.double()).abs().max()
    return float(difference / expected.abs().max().double().clamp(min=1e-12))


def run_oracle_steps(layer: torch.nn.Module, oracle: Oracle, case: str, tolerance: float) -> int:
    """Load a case's initial state, run its training steps and its evaluation, and compare every number.

    Returns the number of arrays compared.
    """
    layer.load_state_dict(oracle.under(f'{case}/init'))
    masks = (oracle[f'{case}/pad_mask'],) if f'{case}/pad_mask' in oracle else ()
    compared = 0
    # Compare outputs, gradients and buffers of each step.
    for step in range(oracle.cfg(case)['steps']):
        expected = oracle.under(f'{case}/step{step}')
        x = expected.pop('x').requires_grad_()
        layer.zero_grad()
        y = layer(x, *masks)
        y.backward(expected.pop('grad_out'))
        actual = {'y': y, 'grad_x': x.grad, **dict(layer.named_buffers())}
        actual.update({f'grad_{name}': parameter.grad for name, parameter in layer.named_parameters()})
        for name, value in expected.items():
            error = relative_error(actual[name], value)
            assert error <= tolerance, f'{case}, step {step}, {name}: {error}'
            compared += 1
    # Compare the evaluation.
    layer.eval()
    error = relative_error(layer(oracle[f'{case}/eval/x'], *masks), oracle[f'{case}/eval/y'])
    assert error <= tolerance, f'{case}, evaluation: {error}'
    return compared + 1
