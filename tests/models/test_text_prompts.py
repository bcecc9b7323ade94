"""Class names as prompts, with a language model that needs no download, and their alignment with visual prompts."""

import copy
import hashlib

import pytest
import torch

from dinor1.models.detectors import prompt_losses
from dinor1.models.losses import symmetric_info_nce
from dinor1.models.prompts import TextTable, WordHashModel, drawn_prompts, encode_text, sample_prompts
from dinor1.utils.errors import InputError

WORDS = {
    'model.prompts.language_model': dict(type='WordHashModel', language_dim=512),
    'model.prompts.text_prompts': 'class',
}


def test_word_hash_names_that_share_words_are_similar():
    e = WordHashModel(language_dim=4096).class_embeddings(['striped circle', 'Striped square', 'solid cross'])
    cosine = e @ e.t()
    torch.testing.assert_close(cosine.diagonal(), torch.ones(3))
    # Expected are 1/2 for one common word of two, and 0 for none, up to five standard deviations, 5 / sqrt(4096).
    assert abs(cosine[0, 1] - 0.5) < 0.08
    assert abs(cosine[0, 2]) < 0.08


def test_word_hash_embeddings_equal_the_digest():
    bits = (WordHashModel(language_dim=16).class_embeddings(['circle'])[0] > 0).int().tolist()
    # Bits of the first two bytes of SHAKE-256 of "circle", lowest bit first.
    digest = hashlib.shake_256(b'circle').digest(2)
    assert bits == [digest[i // 8] >> (i % 8) & 1 for i in range(16)]


def test_word_hash_model_is_not_in_the_checkpoint(build_tiny):
    assert not [name for name in build_tiny(**WORDS).state_dict() if 'language_model' in name]


@torch.no_grad()
def test_encode_text_gives_the_norm_of_visual_prompts(build_tiny, make_batch):
    model = build_tiny(**WORDS).eval()
    prompts = encode_text(['a b', 'c'], model.language_model, model.text_feat_map)
    torch.testing.assert_close(prompts.embeddings.norm(dim=-1), torch.full((2,), 32**0.5))
    inputs, samples = make_batch((1,))
    prompts = model.text_prompt_set(['red cup', 'blue cup'])
    assert not prompts.visual
    found = model.predict(inputs, samples, prompts)[0].pred_instances
    assert set(found.label_names) <= {'red cup', 'blue cup'}
    assert len(found) == 10


@pytest.mark.parametrize(
    ('names', 'said'), [([], 'class names'), (['cat', ' '], 'class names'), (['cat', '(animal)'], r"'\(animal\)'")]
)
def test_encode_text_rejects_empty_names(names, said):
    with pytest.raises(InputError, match=said):
        encode_text(names, WordHashModel(), torch.nn.Identity())


class CountingModel(WordHashModel):
    """Record the names that are embedded."""

    def __init__(self):
        super().__init__(language_dim=16)
        self.asked = []

    def class_embeddings(self, names):
        self.asked += names
        return super().class_embeddings(names)


def test_text_table_embeds_a_name_once_until_weights_change():
    table, model, text_map = TextTable(), CountingModel(), torch.nn.Linear(16, 8)

    def check(names):
        expected = encode_text(names, WordHashModel(language_dim=16), text_map).class_embeddings()
        found = table(names, model, text_map)
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad

    check(['red cup', 'hat'])
    check(['hat', 'shoe', 'red cup'])
    assert model.asked == ['red cup', 'hat', 'shoe']
    text_map.load_state_dict(torch.nn.Linear(16, 8).state_dict())
    check(['shoe'])
    assert model.asked == ['red cup', 'hat', 'shoe', 'shoe']


def test_text_table_does_not_depend_on_other_names():
    """Embeddings are bitwise equal: a resumed run fills the table in another order than an uninterrupted run."""
    torch.manual_seed(0)
    names = [f'class {i}' for i in range(12)]
    model, text_map = WordHashModel(language_dim=256), torch.nn.Linear(256, 64)
    together = TextTable()(names, model, text_map)
    resumed = TextTable()
    parts = [resumed(part, model, text_map) for part in (names[:1], names[1:3], names[3:])]
    assert torch.equal(together, torch.cat(parts))


@pytest.mark.parametrize('counts', [(3, 2), (0, 1), (0, 0)])
def test_alignment_loss_trains_the_prompt_encoder_only(build_tiny, make_batch, counts):
    model = build_tiny(**WORDS, **{'model.prompts.alignment': dict(loss_weight=2.0)})
    inputs, samples = make_batch(counts)
    for sample in samples:
        sample.set_metainfo(dict(text=[f'class {i}' for i in range(8)]))
    loss = model.loss(inputs, samples)['loss_alignment']
    loss.sum().backward()
    gradient = model.prompt_encoder.norms[2].weight.grad
    if sum(counts) > 1:
        assert loss > 0
        assert gradient.abs().max() > 0
    assert loss.isfinite()
    assert gradient.isfinite().all()
    # The text side is not trained.
    assert model.text_feat_map.weight.grad is None


def test_alignment_loss_is_the_infonce_of_class_means(build_tiny, make_batch):
    model = build_tiny(**WORDS, **{'model.prompts.alignment': dict(loss_weight=3.0)}).eval()
    inputs, samples = make_batch((4, 3))
    names = [f'class {i}' for i in range(8)]
    for sample in samples:
        sample.set_metainfo(dict(text=names))
    labels = torch.cat([s.gt_instances.labels for s in samples])
    # Average the embeddings of each class, and compare them with those of the names.
    features = model.encode_image(inputs, samples)
    boxes, shapes = [s.gt_instances.bboxes for s in samples], [s.img_shape for s in samples]
    rows = model.encode_boxes(features, boxes, shapes)
    classes = sorted(set(labels.tolist()))
    visual = torch.stack([rows[labels == c].mean(0) for c in classes])
    text = model.text_feat_map(model.language_model.class_embeddings([names[c] for c in classes]))
    expected = 3.0 * symmetric_info_nce(visual, text, model.alignment.logit_scale)
    # The model computes the same.
    draw = sample_prompts([s.gt_instances.labels for s in samples], names)
    _, instances = drawn_prompts(model.prompt_encoder, features, boxes, shapes, draw, every_box=True)
    loss = prompt_losses.alignment(model, instances, [s.gt_instances.labels for s in samples], draw)
    torch.testing.assert_close(loss, expected)


def test_loss_of_two_vocabularies_equals_one_numbering(build_tiny, make_batch):
    """Class 1 of two images with different names is not the same class; one numbering of both gives equal losses."""
    model = build_tiny(**WORDS, **{'model.prompts.alignment': dict()}).eval()
    inputs, samples = make_batch((3, 3))
    one, two = [f'class {i}' for i in range(8)], [f'class {i}' for i in (7, 2, 9, 0, 1, 3, 8, 4)]
    common = [*one, 'class 9', 'class 8']  # in the order of their first occurrence
    losses = []
    for names in ((one, two), (common, common)):
        again = copy.deepcopy(samples)
        for sample, own in zip(again, names, strict=True):
            sample.set_metainfo(dict(text=own))
        if names[1] is common:
            again[1].gt_instances.labels = torch.tensor([common.index(two[i]) for i in again[1].gt_instances.labels])
        # Remove the label embedding: denoising uses the original labels, which this test does not concern.
        model.dn_query_generator.label_embedding.weight.data.zero_()
        torch.manual_seed(0)
        losses.append(model.loss(inputs, again))
    assert losses[0].keys() == losses[1].keys()
    for name in losses[0]:
        torch.testing.assert_close(losses[0][name], losses[1][name], msg=name)


def test_loss_rejects_names_on_some_images_only(build_tiny, make_batch):
    inputs, samples = make_batch((3, 3))
    samples[0].set_metainfo(dict(text=[f'class {i}' for i in range(8)]))
    with pytest.raises(InputError, match='with and without class names'):
        build_tiny().loss(inputs, samples)


def test_loss_rejects_captions(build_tiny, make_batch):
    inputs, samples = make_batch((3, 3))
    for sample in samples:
        sample.set_metainfo(dict(text='a man with a dog'))
    with pytest.raises(InputError, match='caption'):
        build_tiny().loss(inputs, samples)


def test_loss_rejects_alignment_without_names(build_tiny, make_batch):
    inputs, samples = make_batch((3, 3))
    with pytest.raises(InputError, match='return_classes=True'):
        build_tiny(**WORDS, **{'model.prompts.alignment': dict()}).loss(inputs, samples)


def test_loss_reaches_every_parameter_that_requires_a_gradient(build_tiny, make_batch):
    """DDP waits for every gradient, even with a language model that no alignment loss uses."""
    model = build_tiny(**WORDS)
    sum(value for name, value in model.loss(*make_batch((3, 2))).items() if 'loss' in name).backward()
    assert not model.text_feat_map.weight.requires_grad
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
