"""Choice of the backend: automatic, by the user, and rejected names."""

import logging

import pytest
import torch

from dinor1.ops import ms_deform_attn, ms_deform_attn_backend, use_ms_deform_attn_backend
from dinor1.ops.ms_deform_attn import backends
from tests.ops.attention_cases import Case, make_inputs


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(backends.VARIABLE, raising=False)


def test_backend_is_chosen_by_device_and_size(monkeypatch):
    assert ms_deform_attn_backend('cpu') == 'embedding_bag'
    assert ms_deform_attn_backend('cpu', num_samples=100) == 'reference'
    assert ms_deform_attn_backend(torch.device('cpu'), num_samples=10**6) == 'embedding_bag'
    assert ms_deform_attn_backend('meta') == 'reference'
    for installed, expected in ((True, 'triton'), (False, 'reference')):
        monkeypatch.setattr(backends, 'HAS_TRITON', installed)
        assert ms_deform_attn_backend('cuda:1') == expected


def test_backend_block_takes_precedence_over_variable(monkeypatch):
    monkeypatch.setenv(backends.VARIABLE, 'reference')
    assert ms_deform_attn_backend('cpu') == 'reference'
    with use_ms_deform_attn_backend('embedding_bag'):
        assert ms_deform_attn_backend('cpu', num_samples=1) == 'embedding_bag'
        with use_ms_deform_attn_backend('auto'):
            assert ms_deform_attn_backend('cpu', num_samples=1) == 'reference'
        assert ms_deform_attn_backend('cpu', num_samples=1) == 'embedding_bag'
    with pytest.raises(RuntimeError, match='stop'), use_ms_deform_attn_backend('embedding_bag'):
        raise RuntimeError('stop')
    assert ms_deform_attn_backend('cpu') == 'reference'


def test_backend_rejects_unknown_names(monkeypatch):
    names = 'auto, reference, embedding_bag, triton'
    with (
        pytest.raises(ValueError, match=f"the backend must be one of {names}, got 'cuda'"),
        use_ms_deform_attn_backend('cuda'),
    ):
        pass
    monkeypatch.setenv(backends.VARIABLE, 'fast')
    case = Case('')
    value, starts, inputs = make_inputs(case)
    with pytest.raises(ValueError, match=f'the environment variable DINOR1_MS_DEFORM_ATTN must be one of {names}'):
        ms_deform_attn(value, case.shapes, starts, *inputs)


@pytest.mark.parametrize(('old', 'new'), [('definition', 'reference'), ('bags', 'embedding_bag')])
def test_backend_rejects_names_of_earlier_versions(old, new, monkeypatch):
    sentence = f"{{}}: '{old}' is now called '{new}'; use the new name"
    with pytest.raises(ValueError) as error, use_ms_deform_attn_backend(old):  # noqa: PT011  (compared below)
        pass
    assert str(error.value) == sentence.format('the backend')
    monkeypatch.setenv(backends.VARIABLE, old)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        ms_deform_attn_backend('cpu')
    assert str(error.value) == sentence.format('the environment variable DINOR1_MS_DEFORM_ATTN')


@pytest.mark.parametrize(
    ('installed', 'device', 'reason'),
    [
        (False, 'cuda', 'the package triton is not installed'),
        (True, 'cpu', 'only the interpreter'),
        (True, 'mps', 'written for CUDA devices'),
    ],
)
def test_backend_that_cannot_run_is_an_error(installed, device, reason, monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.setattr(backends, 'HAS_TRITON', installed)
    with use_ms_deform_attn_backend('triton'), pytest.raises(ValueError, match=reason):
        ms_deform_attn_backend(device)


def test_backend_choice_is_logged_once(caplog):
    """No other test uses this kind of device, so that its choice was not logged before."""
    with caplog.at_level(logging.DEBUG, 'dinor1.ops'):
        for _ in range(2):
            ms_deform_attn_backend('xpu')
    assert [record.message for record in caplog.records] == ['deformable attention on xpu: backend reference']
