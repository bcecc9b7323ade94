"""Checkpoint formats: weights of the first format are converted on loading; later formats are rejected."""

import copy

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict

from dinor1.models import DINOR1
from dinor1.utils.checkpoint import check_checkpoint
from dinor1.utils.errors import InputError


def first_format(model: DINOR1) -> dict[str, torch.Tensor]:
    """Weights of the model in the first format: a full attention module, and the norms in another order."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    own = 'prompt_encoder.self_attn.'
    width = model.embed_dims
    for kind in ('weight', 'bias'):
        value = weights.pop(f'{own}value_proj.{kind}')
        rows = torch.randn(2 * width, *value.shape[1:])  # queries and keys, which had no effect
        weights[f'{own}attn.in_proj_{kind}'] = torch.cat([rows, value])
        weights[f'{own}attn.out_proj.{kind}'] = weights.pop(f'{own}output_proj.{kind}')
        first, second = (f'prompt_encoder.norms.{i}.{kind}' for i in (0, 1))
        weights[first], weights[second] = weights[second], weights[first]
    return weights


@pytest.fixture
def models(build_tiny):
    """Two models with different weights."""
    trained = build_tiny(seed=1)
    for norm in trained.prompt_encoder.norms:  # with the initial ones and zeros, their order would not matter
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    return trained, build_tiny(seed=2)


@pytest.mark.parametrize('load', [lambda m, w: m.load_state_dict(w), lambda m, w: load_state_dict(m, w, strict=True)])
def test_load_converts_the_first_format(models, load):
    trained, other = models
    load(other, first_format(trained))
    loaded = other.state_dict()
    for name, tensor in trained.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def test_upgrade_does_not_change_the_current_format(models):
    weights = models[0].state_dict()
    before = copy.deepcopy(weights)
    assert not DINOR1.upgrade_state_dict(weights)
    assert weights.keys() == before.keys()
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def test_resume_rejects_the_first_format(models, tmp_path):
    trained, other = models
    path = tmp_path / 'old.pth'
    meta = dict(epoch=1, iter=2)
    torch.save(dict(meta=meta, message_hub=dict(a=1), state_dict=first_format(trained)), path)
    check_checkpoint(other, str(path))
    with pytest.raises(InputError, match='earlier format, from which no run can be resumed'):
        check_checkpoint(other, str(path), resume=True)


def test_load_rejects_later_formats(models):
    trained, other = models
    weights = trained.state_dict()
    assert weights._metadata['']['version'] == DINOR1._version
    weights._metadata['']['version'] = DINOR1._version + 1
    with pytest.raises(InputError, match=f'format {DINOR1._version + 1}.*install a newer dinor1'):
        other.load_state_dict(weights)
