"""Adaptation of the head: what changes, its file, and what does not fit together."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.inference.tuned_head import head_parameters
from dinor1.structures import PromptBank
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint
from tests.model_files import random_image

BOXES, NAMES = [[5, 5, 30, 40], [40, 10, 70, 50]], ['cat', 'dog']
# Three copies of one image: what helps on two of them helps on the third.
IMAGES, ALL_BOXES, ALL_NAMES = [random_image(60, 80)] * 3, [BOXES] * 3, [NAMES] * 3


@pytest.fixture
def inferencer(loaded):
    loaded.use_head(None)
    loaded.reset_prompts()
    return loaded


def weights(inferencer):
    return fingerprint(inferencer.model, whole=True)


def found(inferencer):
    return inferencer.predict(IMAGES[0], score_thr=0, as_dict=True)


def test_adapt_of_the_head_changes_these_parameters_only(inferencer):
    before = {name: value.clone() for name, value in inferencer.model.state_dict().items()}
    trained = [parameter.requires_grad for parameter in inferencer.model.parameters()]
    result = inferencer.adapt(IMAGES, ALL_BOXES, ALL_NAMES, steps=4, parts='head')
    assert (result.kept, result.checked, result.parts) == (True, True, 'head')
    assert result.loss_after < result.loss_before
    changed = {name for name, value in inferencer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(head_parameters(inferencer.model))
    assert 'decoder.norm.weight' in changed
    assert [parameter.requires_grad for parameter in inferencer.model.parameters()] == trained
    assert all(parameter.grad is None for parameter in inferencer.model.parameters())
    # The own head can be had again.
    inferencer.use_head(None)
    assert all(torch.equal(value, before[name]) for name, value in inferencer.model.state_dict().items())


def test_adapt_of_the_head_lowers_the_loss_further(inferencer):
    losses = []
    for parts in ('embeddings', 'head'):
        inferencer.reset_prompts()
        losses.append(inferencer.adapt(IMAGES, ALL_BOXES, ALL_NAMES, steps=6, parts=parts).loss_after)
    assert losses[1] < losses[0]


def test_adapt_of_the_head_without_improvement_changes_nothing(inferencer):
    before = weights(inferencer)
    result = inferencer.adapt(IMAGES, ALL_BOXES, ALL_NAMES, steps=1, lr=0.0, parts='head')
    assert not result.kept
    assert weights(inferencer) == before
    assert inferencer.head is None


def test_tuned_head_is_saved_with_its_origin_and_loaded(inferencer, model_files, tmp_path):
    original = weights(inferencer)
    inferencer.adapt(IMAGES, ALL_BOXES, ALL_NAMES, steps=2, parts='head')
    inferencer.adapt(IMAGES, ALL_BOXES, ALL_NAMES, steps=1, parts='head')
    inferencer.save_head(tmp_path / 'head.safetensors')
    inferencer.save_bank(tmp_path / 'bank.safetensors')
    expected, tuned = found(inferencer), weights(inferencer)
    assert tuned != original
    # Another process loads both, first the head.
    other = DINOR1Inferencer(model_files.config, model_files.checkpoint, device='cpu')
    with pytest.raises(InputError, match='bank.safetensors: .* tuned together with a head; load this head first'):
        other.set_prompts(bank=tmp_path / 'bank.safetensors')
    other.load_head(tmp_path / 'head.safetensors')
    other.set_prompts(bank=tmp_path / 'bank.safetensors')
    assert (found(other), weights(other)) == (expected, tuned)
    assert other.weights_digest == original
    assert [origin['steps'] for origin in other.head.adaptations] == [2, 1]
    assert other.head.adaptations[0]['parts'] == 'head'
    # The bank names the last head only.
    origins = PromptBank.load(tmp_path / 'bank.safetensors').adaptations
    assert [origin.get('head') for origin in origins] == [None, other.head.digest]
    other.use_head(None)
    assert weights(other) == original


def test_embeddings_tuned_with_a_head_need_it(inferencer, tmp_path):
    inferencer.adapt(IMAGES, ALL_BOXES, ALL_NAMES, steps=1, parts='head')
    inferencer.reset_prompts()
    inferencer.adapt(IMAGES, ALL_BOXES, ALL_NAMES, steps=1)
    inferencer.save_bank(tmp_path / 'bank.safetensors')
    inferencer.set_prompts(bank=tmp_path / 'bank.safetensors')
    inferencer.use_head(None)
    with pytest.raises(InputError, match='load this head first'):
        inferencer.set_prompts(bank=tmp_path / 'bank.safetensors')


@pytest.fixture
def head_file(inferencer, tmp_path):
    inferencer.adapt(IMAGES, ALL_BOXES, ALL_NAMES, steps=1, parts='head')
    inferencer.save_head(tmp_path / 'head.safetensors')
    inferencer.use_head(None)
    return tmp_path / 'head.safetensors'


def test_load_head_rejects_other_models_and_damaged_files(inferencer, other_files, head_file, tmp_path):
    other = DINOR1Inferencer(other_files.config, other_files.checkpoint, device='cpu')
    with pytest.raises(InputError, match=r'head\.safetensors: this head was tuned on another model'):
        other.load_head(head_file)
    before = weights(inferencer)
    # A parameter is missing, has another shape, or is not finite.
    tensors = load_file(head_file)
    metadata = dict(format='dinor1.tuned_head/1', fingerprint=inferencer.weights_digest, adaptations='[]')
    name = 'decoder.norm.weight'
    for content in (
        {key: value for key, value in tensors.items() if key != name},
        tensors | {name: tensors[name][:-1].clone()},
        tensors | {name: tensors[name] * float('nan')},
        tensors | {name: tensors[name].double()},
    ):
        save_file(content, tmp_path / 'bad.safetensors', metadata)
        with pytest.raises(InputError, match='a damaged tuned head'):
            inferencer.load_head(tmp_path / 'bad.safetensors')
    for path, message in (
        (tmp_path / 'absent.safetensors', 'no such tuned head'),
        (__file__, 'not a readable safetensors file'),
    ):
        with pytest.raises(InputError, match=message):
            inferencer.load_head(path)
    save_file(tensors, tmp_path / 'other.safetensors', dict(format='dinor1.prompt_bank/2'))
    with pytest.raises(InputError, match='not a tuned head of dinor1'):
        inferencer.load_head(tmp_path / 'other.safetensors')
    assert weights(inferencer) == before


def test_adapt_of_the_head_rejects_two_images_and_unknown_parts(inferencer, tmp_path):
    with pytest.raises(InputError, match='at least 3 images'):
        inferencer.adapt(IMAGES[:2], ALL_BOXES[:2], ALL_NAMES[:2], parts='head')
    with pytest.raises(InputError, match="parts must be 'embeddings' or 'head', got 'all'"):
        inferencer.adapt(IMAGES, ALL_BOXES, ALL_NAMES, parts='all')
    with pytest.raises(InputError, match='no tuned head to save'):
        inferencer.save_head(tmp_path / 'head.safetensors')
