"""EncoderOutput: the gates at selected tokens."""

import torch

from dinor1.structures import EncoderOutput, PromptBatch


def output(gate_logits=()):
    """Output for one image of four tokens and two prompts."""
    prompts = PromptBatch.shared(torch.zeros(2, 3), 1)
    return EncoderOutput(torch.zeros(1, 4, 3), prompts, gate_logits=gate_logits)


def test_gate_logits_at_picks_the_tokens_of_every_gate():
    first = torch.tensor([[[0.0, 0.1], [1.0, 1.1], [2.0, 2.1], [3.0, 3.1]]])
    found = output((first, first + 10)).gate_logits_at(torch.tensor([[3, 1]]))
    expected = torch.tensor([[[[3.0, 3.1], [1.0, 1.1]]], [[[13.0, 13.1], [11.0, 11.1]]]])
    torch.testing.assert_close(found, expected)
    assert found.shape == (2, 1, 2, 2)


def test_gate_logits_at_without_gates_is_none():
    assert output().gate_logits_at(torch.tensor([[3, 1]])) is None
