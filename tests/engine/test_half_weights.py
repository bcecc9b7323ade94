"""HalfWeightsHook: when it writes, and whether the file can be loaded."""

from types import SimpleNamespace

import pytest
import torch

from dinor1.engine.hooks import HalfWeightsHook, half_weights
from dinor1.engine.hooks.half_weights import half_precision
from dinor1.utils.checkpoint import check_checkpoint
from dinor1.utils.errors import InputError


def test_half_precision_keeps_values_and_types():
    weights = dict(
        empty=torch.zeros(0),
        small=torch.tensor([1.0, -3.14159]),
        count=torch.tensor(7),
        mask=torch.tensor([True, False]),
        # A running variance may be larger than the largest number of float16, 65504.
        large=torch.tensor([70000.0, 1.0]),
        infinite=torch.tensor([float('inf'), 2.0]),
    )
    made = half_precision(weights)
    assert {name: value.dtype for name, value in made.items()} == dict(
        empty=torch.float16,
        small=torch.float16,
        count=torch.int64,
        mask=torch.bool,
        large=torch.float32,
        infinite=torch.float16,
    )
    for name, value in weights.items():
        torch.testing.assert_close(made[name].to(value.dtype), value, rtol=2**-11, atol=0.0)


def test_half_weights_hook_writes_periodically_and_at_end(tmp_path, monkeypatch):
    # Run five iterations of 25 s each.
    now = [100.0]
    monkeypatch.setattr(half_weights.time, 'monotonic', lambda: now[0])
    model = torch.nn.Linear(3, 2)
    runner = SimpleNamespace(model=model, epoch=0, iter=0)
    path = tmp_path / 'new/weights.pth'
    hook = HalfWeightsHook(str(path), seconds=60)
    hook.before_train(runner)
    written = []
    for runner.iter in range(5):
        now[0] += 25
        path.unlink(missing_ok=True)
        hook.after_train_iter(runner, runner.iter)
        written.append(torch.load(path)['meta']['iter'] if path.is_file() else None)
    # The hook writes after 75 s, and not again before 135 s.
    assert written == [None, None, 3, None, None]
    # It writes at the end, and the file can be loaded.
    runner.iter = 5
    hook.after_train(runner)
    assert torch.load(path)['meta'] == dict(epoch=0, iter=5)
    check_checkpoint(model, str(path))
    other = torch.nn.Linear(3, 2)
    other.load_state_dict(torch.load(path)['state_dict'])
    torch.testing.assert_close(other.weight, model.weight, rtol=2**-11, atol=1e-6)
    assert other.weight.dtype == torch.float32


def test_half_weights_hook_rejects_zero_seconds():
    with pytest.raises(InputError, match='seconds must be positive'):
        HalfWeightsHook('a.pth', seconds=0)
