"""Class embeddings from a file, and the modes of training iterations."""

import pytest
import torch

from dinor1.models import DINOR1
from dinor1.models.prompts import (
    ClassEmbeddings,
    PromptsConfig,
    draw_prompts,
    prompt_mode,
    read_class_embeddings,
    save_class_embeddings,
    write_class_embeddings,
)
from dinor1.utils.errors import InputError

NAMES = ('ant', 'bee', 'cat', 'dog', 'eel', 'fox', 'gnu', 'hen')


@pytest.fixture
def file(tmp_path):
    """Embeddings of width 6 for the eight classes of a tiny batch."""
    save_class_embeddings(tmp_path / 'names.safetensors', NAMES, torch.randn(len(NAMES), 6))
    return str(tmp_path / 'names.safetensors')


# The file ---------------------------------------------------------------------------------------------------


def test_saved_embeddings_are_read_again(tmp_path):
    rows = torch.randn(2, 5)
    save_class_embeddings(tmp_path / 'a.safetensors', ['sea "urchin"', 'œuf'], rows)
    names, embeddings = read_class_embeddings(tmp_path / 'a.safetensors')
    assert names == ['sea "urchin"', 'œuf']
    assert torch.equal(embeddings, rows)


def test_files_without_class_embeddings_are_rejected(tmp_path, file):
    (tmp_path / 'text.safetensors').write_text('nothing')
    with pytest.raises(InputError, match='no such file of class embeddings'):
        read_class_embeddings(tmp_path / 'missing.safetensors')
    with pytest.raises(InputError, match='not a readable safetensors file'):
        read_class_embeddings(tmp_path / 'text.safetensors')
    with pytest.raises(InputError, match="'ant' occurs twice"):
        save_class_embeddings(tmp_path / 'b.safetensors', ['ant', 'ant'], torch.zeros(2, 3))
    with pytest.raises(InputError, match='no class name to write'):
        save_class_embeddings(tmp_path / 'b.safetensors', [], torch.zeros(0, 3))
    assert not (tmp_path / 'b.safetensors').exists()
    with pytest.raises(InputError, match=r"'owl' has no embedding in .*names.safetensors; add it to the file"):
        ClassEmbeddings(file).class_embeddings(['ant', 'owl'])


def test_write_class_embeddings_rejects_bad_sources(tmp_path):
    (tmp_path / 'a.json').write_text('[1]')
    (tmp_path / 'b.txt').write_text('cat\n(dog)\n')
    out = tmp_path / 'out.safetensors'
    for source, message in (('a.json', 'has no list of categories'), ('b.txt', 'only brackets')):
        with pytest.raises(InputError, match=message):
            write_class_embeddings([tmp_path / source], 'WordHashModel', out)
    with pytest.raises(InputError, match='ends in .safetensors'):
        write_class_embeddings([tmp_path / 'b.txt'], 'WordHashModel', tmp_path / 'out.pth')
    assert not out.exists()


# The schedule -----------------------------------------------------------------------------------------------


def test_schedule_gives_the_mode_of_an_iteration():
    assert [prompt_mode('visual', 0, i) for i in range(3)] == ['visual'] * 3
    expected = ['visual', 'visual', 'text', 'visual', 'visual', 'text']
    assert [prompt_mode('alternate(2, 1)', 0, i) for i in range(6)] == expected
    drawn = [prompt_mode('random', 3, i) for i in range(1000)]
    assert abs(drawn.count('text') / 1000 - 0.5) < 0.06  # standard deviation 0.016
    assert drawn == [prompt_mode('random', 3, i) for i in range(1000)]
    assert drawn != [prompt_mode('random', 4, i) for i in range(1000)]


@pytest.mark.parametrize('schedule', ['text', 'alternate(1)', 'alternate(0, 1)', ''])
def test_unknown_schedule_is_rejected(schedule):
    with pytest.raises(InputError, match="must be 'visual' or 'random' or 'alternate"):
        prompt_mode(schedule, 0, 0)


def test_text_iterations_without_a_text_side_are_rejected():
    with pytest.raises(InputError, match='has text iterations and needs model.prompts.class_embeddings or'):
        PromptsConfig(prompt_mode_schedule='random', text_prompts='class')
    with pytest.raises(InputError, match="needs one prompt per class name; set model.prompts.text_prompts='class'"):
        PromptsConfig(prompt_mode_schedule='random', class_embeddings='names.safetensors')
    with pytest.raises(InputError, match='takes the place of model.prompts.language_model'):
        PromptsConfig(class_embeddings='a', language_model=dict(type='WordHashModel'))
    with pytest.raises(InputError, match='text_classes must be at least 1, got 0'):
        PromptsConfig(text_classes=0)


# In the detector --------------------------------------------------------------------------------------------


@pytest.fixture
def batch(make_batch):
    """Two images with boxes of the classes cat and eel, and cat."""
    inputs, samples = make_batch((2, 1))
    for sample, labels in zip(samples, ([2, 4], [2]), strict=True):
        sample.gt_instances.labels = torch.tensor(labels)
        sample.set_metainfo(dict(text=NAMES))
    return inputs, samples


def text_model(build_tiny, file, **settings) -> DINOR1:
    settings = dict(class_embeddings=file, prompt_mode_schedule='random', text_prompts='class') | settings
    return build_tiny(**{f'model.prompts.{name}': value for name, value in settings.items()})


def test_text_iteration_offers_classes_of_the_batch_and_others(build_tiny, batch, file):
    model = text_model(build_tiny, file, text_classes=5)
    seen = set()
    for _ in range(40):
        draw, _, _ = draw_prompts(batch[1], model.prompts_cfg, text=True)
        names = draw.names()
        assert len(names) == 5
        assert names == sorted(names)
        assert {'cat', 'eel'} <= set(names)
        seen |= set(names)
    assert seen == set(NAMES)
    draw, _, _ = draw_prompts(batch[1], PromptsConfig(text_classes=1), text=True)
    assert draw.names() == ['cat', 'eel']


def test_text_iteration_has_the_prompts_of_a_prediction(build_tiny, batch, file):
    model = text_model(build_tiny, file)
    model.prompt_mode = 'text'
    given = []
    model.encoder.register_forward_pre_hook(lambda _, args: given.append(args[1].embeddings))
    model.loss(*batch)
    expected = model.text_prompt_set(NAMES).embeddings
    assert given[0].shape == (2, len(NAMES), model.embed_dims)
    for embeddings in given[0]:
        torch.testing.assert_close(embeddings, expected)


@pytest.mark.parametrize('mode', ['visual', 'text'])
@pytest.mark.parametrize('counts', [(0, 0), (3, 1)])
def test_iterations_of_both_modes_reach_every_parameter(build_tiny, make_batch, file, mode, counts):
    model = text_model(build_tiny, file, alignment=dict(type='LanguageAlignment'), prompt_sampling='class_prototype')
    model.prompt_mode = mode
    inputs, samples = make_batch(counts)
    for sample in samples:
        sample.set_metainfo(dict(text=NAMES))
    losses = model.loss(inputs, samples)
    sum(value.sum() for name, value in losses.items() if 'loss' in name).backward()
    assert all(value.isfinite().all() for value in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    # Only text iterations train the map of text embeddings.
    assert (model.text_feat_map.weight.grad.abs().sum() > 0) == (mode == 'text')


def test_text_iteration_with_a_frozen_language_model(build_tiny, batch):
    model = text_model(build_tiny, None, language_model=dict(type='WordHashModel'))
    model.prompt_mode = 'text'
    losses = model.loss(*batch)
    sum(value.sum() for name, value in losses.items() if 'loss' in name).backward()
    assert model.text_feat_map.weight.grad is None
    assert model.encoder.layers[0].norms[0].weight.grad.abs().sum() > 0


def test_text_iteration_needs_class_names(build_tiny, make_batch, file):
    model = text_model(build_tiny, file)
    model.prompt_mode = 'text'
    with pytest.raises(InputError, match='text prompts need class names; set return_classes=True'):
        model.loss(*make_batch((1,)))


def test_table_stays_out_of_checkpoints(build_tiny, file):
    assert not [name for name in text_model(build_tiny, file).state_dict() if name.startswith('language_model')]
