"""DINOR1Inferencer: prompts by boxes, banks and names, and negative prompts."""

import cv2
import numpy as np
import pytest
import torch

from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.inference.visual_prompt import VisualPrompt
from dinor1.structures import PromptBank
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint
from tests.inference.comparisons import BOXES, NAMES, assert_same, detections, embeddings_of, same_sets
from tests.model_files import random_image, write_model


def test_set_prompts_averages_the_boxes_of_a_class_over_images(inferencer):
    one, two, three = random_image(60, 80, 1), random_image(60, 80, 2), random_image(50, 40, 3)
    box = [5, 5, 30, 40]
    single = [
        embeddings_of(inferencer, visual=[(image, b, 'cat')])['cat']
        for image, b in [(one, box), (one, [20, 8, 60, 50]), (two, box), (three, box)]
    ]
    visual = [
        VisualPrompt(one, [box, [20, 8, 60, 50], [1, 1, 20, 20]], ['cat', 'cat', 'dog']),
        (two, np.array([box]), 'cat'),
        (three, torch.tensor(box), ['cat']),
    ]
    prompts = embeddings_of(inferencer, visual=visual)
    assert list(prompts) == ['cat', 'dog']
    # One pass over several images instead of four passes over one image: float32 rounding.
    torch.testing.assert_close(prompts['cat'], torch.stack(single).mean(0), rtol=0, atol=1e-5)
    assert (single[0] - single[2]).abs().max() > 1e-3


def test_set_prompts_accepts_boxes_on_the_target_image(inferencer, image_folder):
    prompts = inferencer.set_prompts(visual=[(image_folder / '0.png', BOXES[0], 'thing')])
    assert prompts.names == ('thing',)
    (result,) = inferencer.predict(image_folder / '0.png', score_thr=0, as_dict=True)
    assert set(result['names']) == {'thing'}


@pytest.mark.parametrize(
    ('box', 'message'),
    [
        ([], 'at least one box of four numbers'),
        ([1, 2, 3], 'at least one box of four numbers'),
        ([[1, 2, 3, 4], [5, 6]], 'not four numbers'),
        (['a', 1, 2, 3], 'not four numbers'),
        ([0, 0, float('nan'), 9], 'not four finite numbers'),
        ([30, 5, 5, 40], r'box \(30, 5, 5, 40\) has no area'),
        ([5, 5, 5, 40], 'has no area'),
        ([-5, 5, 30, 40], 'leaves the image of 80 x 60 pixels'),
        ([5, 5, 30, 62], 'leaves the image'),
        ([80, 5, 80.5, 40], 'thinner than 1 pixel'),
        ([79.5, 5, 80.9, 40], 'thinner than 1 pixel'),
        ([0.1, 0.2, 0.5, 0.7], 'boxes are pixels x1,y1,x2,y2, and all numbers .* normalized=True'),
        ([[5, 5, 30, 40], [0, 0, 1, 1]], r'boxes are pixels x1,y1,x2,y2, and all numbers of box \(0, 0, 1, 1\)'),
        ([10, 10, 10.3, 40], 'thinner than 1 pixel'),
        ([10, 10, 40, 10.3], 'thinner than 1 pixel'),
        ([False, False, True, True], 'not four numbers'),
        ([5, 5, 30, True], 'not four numbers'),
        (np.array([5, 5, 30, True], dtype=object), 'not four numbers'),
        (torch.tensor([0, 0, 1, 1]).bool(), 'not four numbers'),
        ([500, 500, 600, 600], 'leaves the image'),
    ],
)
def test_set_prompts_rejects_invalid_boxes_and_keeps_old_prompts(prompted, box, message):
    before = prompted.prompts
    with pytest.raises(InputError, match=message) as error:
        prompted.set_prompts(visual=[(random_image(60, 80), box, 'cat')])
    assert 'image 0' in str(error.value)
    assert '\n' not in str(error.value)
    assert prompted.prompts is before


def test_set_prompts_accepts_boxes_one_pixel_beyond_the_edge(inferencer):
    image = random_image(60, 80)
    exact = embeddings_of(inferencer, visual=[(image, [0, 0, 80, 60], 'cat')])['cat']
    beyond = embeddings_of(inferencer, visual=[(image, [-1, -0.5, 81, 60.5], 'cat')])['cat']
    assert torch.equal(exact, beyond)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['cat'], 'one class name per box'),
        (['cat', 'dog', 'cup', 'pen'], 'one class name per box'),
        (['cat', '', 'dog'], "'' is an empty class name"),
        ('', "'' is an empty class name"),
        ([1, 2, 3], "1 is not a class name; give a text, such as '1'"),
        (0, "0 is not a class name; give a text, such as '0'"),
        (None, 'None is not a class name'),
        (b'cat', 'is not a class name'),
        ('\udcff', 'not valid Unicode'),
    ],
)
def test_set_prompts_rejects_names_that_do_not_fit_the_boxes(inferencer, names, message):
    with pytest.raises(InputError, match=message):
        inferencer.set_prompts(visual=[(random_image(60, 80), BOXES, names)])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(visual=['ref.jpg']), r'expected a list of \(image, boxes, names\)'),
        (dict(visual=7), 'visual: expected a list'),
        (dict(visual=None), 'visual: expected a list'),
        (dict(visual=[(random_image(60, 80), BOXES, NAMES, 1)]), 'normalized must be True or False, got 1'),
        (dict(text=[1]), "text: 1 is not a class name; give a text, such as '1'"),
        (dict(text=1), 'text: expected a list'),
        (dict(text=['']), 'text: .* empty class name'),
        (dict(text=['a\udcff']), 'not valid Unicode'),
        (dict(bank=7), 'bank: expected a prompt bank or its file, got 7'),
        (dict(visual=[(random_image(60, 80), BOXES, NAMES)], negative=[0]), 'negative: 0 is not a class name'),
        (dict(visual=[(random_image(60, 80), BOXES, NAMES)], negative=0), 'negative: expected a list'),
    ],
)
def test_set_prompts_rejects_invalid_arguments(inferencer, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        inferencer.set_prompts(**arguments)
    assert '\n' not in str(error.value)


def test_set_prompts_scales_normalized_boxes(inferencer):
    image = random_image(32, 64)
    expected = embeddings_of(inferencer, visual=[(image, [[16, 8, 48, 24], [0, 0, 64, 32]], ['cat', 'dog'])])
    normalized = VisualPrompt(image, [[0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1]], ['cat', 'dog'], normalized=True)
    for visual in ([normalized], [tuple(normalized)]):
        found = embeddings_of(inferencer, visual=visual)
        assert all(torch.equal(found[name], expected[name]) for name in ('cat', 'dog'))
    # Rounding of normalised numbers is accepted.
    rounded = embeddings_of(inferencer, visual=[(image, [-0.0001, 0, 1.0001, 1], 'dog', True)])
    torch.testing.assert_close(rounded['dog'], expected['dog'], rtol=0, atol=1e-5)
    inferencer(image, prompts=tuple(normalized))
    assert inferencer.prompts.names == ('cat', 'dog')


@pytest.mark.parametrize(
    ('box', 'message'),
    [
        ([16, 8, 48, 24], 'is not within 0..1'),
        ([-0.2, 0.1, 0.5, 0.5], 'is not within 0..1'),
        ([0.5, 0.1, 0.4, 0.5], 'has no area'),
        ([0.5, 0.1, 0.505, 0.5], 'thinner than 1 pixel'),
    ],
)
def test_set_prompts_rejects_invalid_normalized_boxes(inferencer, box, message):
    with pytest.raises(InputError, match=message):
        inferencer.set_prompts(visual=[VisualPrompt(random_image(60, 80), box, 'cat', normalized=True)])


def test_set_prompts_takes_spellings_of_a_name_as_one_class(inferencer, tmp_path):
    image = random_image(60, 80)
    same = embeddings_of(inferencer, visual=[(image, BOXES, ['cat', 'cat', 'dog'])])
    inferencer.save_bank(tmp_path / 'bank.safetensors')
    other = embeddings_of(inferencer, visual=[(image, BOXES, ['cat', 'CAT ', 'dog'])])
    assert list(other) == ['cat', 'dog']
    assert torch.equal(other['cat'], same['cat'])
    # The spelling of the bank is kept, and the exemplars of all sources count.
    visual = [(image, BOXES[:1], 'Cat')]
    prompts = inferencer.set_prompts(visual=visual, bank=tmp_path / 'bank.safetensors', negative='DOG')
    assert prompts.names == ('cat', 'dog')
    assert prompts.negative.tolist() == [False, True]
    inferencer.save_bank(tmp_path / 'both.safetensors')
    assert PromptBank.load(tmp_path / 'both.safetensors').num_exemplars == (3, 1)


def test_set_prompts_rejects_unknown_negatives_and_no_positives(inferencer):
    visual = [(random_image(60, 80), BOXES, NAMES)]
    with pytest.raises(InputError, match="'dig' is not among the prompts; did you mean 'dog'"):
        inferencer.set_prompts(visual=visual, negative='dig')
    with pytest.raises(InputError, match='all prompts are negative'):
        inferencer.set_prompts(visual=visual, negative=NAMES)


def test_negative_prompts_are_offered_but_not_reported(inferencer, image_folder):
    visual = [(random_image(60, 80), BOXES, NAMES)]
    inferencer.set_prompts(visual=visual)
    everything = inferencer.predict(image_folder, score_thr=0, as_dict=True)
    prompts = inferencer.set_prompts(visual=visual, negative=['dog'])
    assert bool(prompts.mask.all())
    assert prompts.names == tuple(NAMES)
    hidden = inferencer.predict(image_folder, score_thr=0, as_dict=True)
    inferencer.set_prompts(visual=[(random_image(60, 80), BOXES[::2], NAMES[::2])])
    without = inferencer.predict(image_folder, score_thr=0, as_dict=True)
    for full, found, absent in zip(everything, hidden, without, strict=True):
        assert 'dog' in full['names']
        # The negative is offered: the other classes score as if it were positive, and not as if it were absent.
        assert same_sets(detections(found), detections(full, 'cat') + detections(full, 'cup'))
        assert not same_sets(detections(found), detections(absent))


def test_set_prompts_rejects_a_truncated_reference_image(prompted, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.jpg'), random_image(60, 80))
    content = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'a.jpg').write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match='a.jpg: a truncated or damaged image'):
        prompted.set_prompts(visual=[(tmp_path / 'a.jpg', BOXES[0], 'cat')])


def test_save_bank_gives_the_detections_of_its_boxes(prompted, image_folder, tmp_path):
    expected = prompted.predict(image_folder, score_thr=0, as_dict=True)
    prompted.save_bank(tmp_path / 'bank.safetensors')
    prompted.reset_prompts()
    prompted.set_prompts(bank=tmp_path / 'bank.safetensors')
    assert_same(prompted.predict(image_folder, score_thr=0, as_dict=True), expected)
    bank = PromptBank.load(tmp_path / 'bank.safetensors')
    assert bank.num_exemplars == (1, 1, 1)
    prompted.set_prompts(bank=bank)
    assert_same(prompted.predict(image_folder, score_thr=0, as_dict=True), expected)


def test_set_prompts_averages_bank_and_boxes_of_a_class(inferencer, tmp_path):
    visual = [(random_image(60, 80, i), BOXES[0], 'cat') for i in range(3)]
    expected = embeddings_of(inferencer, visual=visual)['cat']
    inferencer.set_prompts(visual=visual[:2])
    inferencer.save_bank(tmp_path / 'two.safetensors')
    both = embeddings_of(inferencer, bank=tmp_path / 'two.safetensors', visual=visual[2:])
    torch.testing.assert_close(both['cat'], expected, rtol=0, atol=1e-5)
    inferencer.save_bank(tmp_path / 'three.safetensors')
    assert PromptBank.load(tmp_path / 'three.safetensors').num_exemplars == (3,)


def test_set_prompts_rejects_bank_of_other_weights(prompted, other_files, tmp_path):
    prompted.save_bank(tmp_path / 'bank.safetensors')
    other = DINOR1Inferencer(other_files.config, other_files.checkpoint, device='cpu')
    for bank in (tmp_path / 'bank.safetensors', PromptBank.load(tmp_path / 'bank.safetensors')):
        with pytest.raises(InputError, match='made by another model'):
            other.set_prompts(bank=bank)


def test_set_prompts_rejects_bank_of_another_width(inferencer):
    bank = PromptBank(torch.zeros(1, 7), ('a',), (1,), fingerprint(inferencer.model))
    with pytest.raises(InputError, match='embeddings of width 7'):
        inferencer.set_prompts(bank=bank)


@pytest.fixture(scope='module')
def reader(tmp_path_factory):
    """An inferencer with a language model of 2 layers and ten words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    # Write a tokenizer and a model as the library transformers does.
    folder = tmp_path_factory.mktemp('bert')
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', 'cat', 'red', 'dog']
    (folder / 'vocab.txt').write_text('\n'.join(words))
    BertTokenizerFast(str(folder / 'vocab.txt')).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    # Build a detector with this language model.
    language_model = dict(
        type='BertModel',
        name=str(folder),
        max_tokens=64,
        pad_to_max=False,
        use_sub_sentence_represent=True,
        special_tokens_list=['[CLS]', '[SEP]', '.', '?'],
        add_pooling_layer=False,
    )
    files = write_model(tmp_path_factory.mktemp('reader'), **{'model.prompts.language_model': language_model})
    return DINOR1Inferencer(files.config, files.checkpoint, device='cpu')


def test_text_prompts_are_detected(reader, image_folder):
    assert reader.set_prompts(text='cat . red dog').names == ('cat', 'red dog')
    expected = reader.predict(image_folder, score_thr=0, as_dict=True)
    assert {name for result in expected for name in result['names']} == {'cat', 'red dog'}
    reader.set_prompts(text=['cat', 'red dog', 'cat'])
    assert_same(reader.predict(image_folder, score_thr=0, as_dict=True), expected)
    reader.set_prompts(text=['cat', 'red dog'], negative='red dog')
    hidden = reader.predict(image_folder, score_thr=0, as_dict=True)
    for full, found in zip(expected, hidden, strict=True):
        assert same_sets(detections(found), detections(full, 'cat'))


def test_set_prompts_averages_text_and_boxes_of_a_class(reader, image_folder, tmp_path):
    visual = [(random_image(60, 80), BOXES[:2], ['cat', 'thing'])]
    seen = embeddings_of(reader, visual=visual)
    read = reader.set_prompts(text=['cat', 'dog']).class_embeddings()[0]
    mixed = embeddings_of(reader, visual=visual, text=['cat', 'dog'])
    assert list(mixed) == ['cat', 'thing', 'dog']
    mean = (seen['cat'] / seen['cat'].norm() + read / read.norm()) / 2
    expected = mean * (seen['cat'].norm() + read.norm()) / 2
    torch.testing.assert_close(mixed['cat'], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed['thing'], seen['thing'], rtol=1e-5, atol=1e-5)

    results = reader.predict(image_folder, score_thr=0, as_dict=True)
    reader.save_bank(tmp_path / 'bank.safetensors')
    assert PromptBank.load(tmp_path / 'bank.safetensors').names == ('cat', 'thing')
    reader.set_prompts(bank=tmp_path / 'bank.safetensors', text=['cat', 'dog'])
    assert_same(reader.predict(image_folder, score_thr=0, as_dict=True), results)


def test_set_prompts_rejects_text_without_a_language_model(inferencer):
    with pytest.raises(InputError, match='no language model'):
        inferencer.set_prompts(text='cat . dog')
