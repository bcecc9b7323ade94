"""Every trainable parameter of the detector receives a gradient that is not zero."""

import pytest
import torch

from dinor1.models import ReferenceModel

WORDS = {
    'model.prompts.language_model': dict(type='WordHashModel', language_dim=64),
    'model.prompts.text_prompts': 'class',
    'model.prompts.alignment': dict(loss_weight=1.0),
}
NAMES = tuple(f'thing {i}' for i in range(8))


@pytest.mark.parametrize('overrides', [{}, WORDS, {'model.bbox_head.loss_grqo': dict(type='GRQOLoss')}])
def test_loss_trains_every_trainable_parameter(build_tiny, make_batch, overrides):
    model = build_tiny(**overrides).train()
    if model.bbox_head.loss_grqo is not None:
        model.reference = ReferenceModel(build_tiny(**overrides).eval())
    with torch.no_grad():  # layers with zero weights pass no gradient on
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    inputs, samples = make_batch((3, 2), side=96)
    for sample in samples:
        sample.set_metainfo(dict(text=NAMES))
    losses = model.loss(inputs, samples)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    idle = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().max() > 0)
    ]
    assert not idle


def test_alignment_text_side_is_frozen_and_computed_once(build_tiny, make_batch, monkeypatch):
    model = build_tiny(**WORDS).train()
    assert not any(p.requires_grad for p in model.text_feat_map.parameters())
    asked = []
    compute = model.language_model.class_embeddings
    monkeypatch.setattr(model.language_model, 'class_embeddings', lambda names: asked.extend(names) or compute(names))
    inputs, samples = make_batch((3, 2))
    for sample in samples:
        sample.set_metainfo(dict(text=NAMES))
    first = model.loss(inputs, samples)['loss_alignment']
    once = list(asked)
    assert once
    assert len(set(once)) == len(once)
    torch.testing.assert_close(model.loss(inputs, samples)['loss_alignment'], first)
    assert asked == once
    # After a change of weights, as by a checkpoint, the table is computed again.
    with torch.no_grad():
        model.text_feat_map.weight.mul_(-1)
    assert not torch.allclose(model.loss(inputs, samples)['loss_alignment'], first)
    assert asked == once * 2
