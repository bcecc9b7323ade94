"""Training in bfloat16 on a CPU."""

import pytest
import torch

TYPE = {'optim_wrapper.type': 'CPUBFloat16OptimWrapper', 'train_cfg.max_epochs': 2}


@pytest.mark.skipif(torch.cuda.is_available(), reason='the run would use the GPU')
def test_bfloat16_training_is_close_to_float32(train):
    """Losses of SFT and GRQO are equal within bfloat16's precision (8 bits), and not exactly equal."""
    seen = set()

    def look(runner):
        runner.model.backbone.register_forward_hook(lambda module, args, outputs: seen.add(outputs[0].dtype))

    runner, half = train('half', look, **TYPE)
    _, full = train('full', **TYPE | {'optim_wrapper.type': 'OptimWrapper'})
    assert seen == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in runner.model.parameters())
    assert [step.keys() for step in half.history] == [step.keys() for step in full.history]
    losses = [[step['loss'] for step in record.history] for record in (half, full)]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=0.1, atol=0)
    # The first step starts from the same weights.
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.02)
    assert losses[0] != losses[1]
    assert losses[0][-1] < losses[0][0]
