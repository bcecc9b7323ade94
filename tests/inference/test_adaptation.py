"""Adaptation of prompts on annotated images: changed and unchanged state, and rejected results."""

import copy

import pytest
import torch

from dinor1.inference.adaptation import AnnotatedImage, supervised_loss, tune
from dinor1.structures import PromptBank, PromptSet
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint
from tests.model_files import random_image

BOXES = [[5, 5, 30, 40], [40, 10, 70, 50]]
NAMES = ['cat', 'dog']
# Three copies of one image: a tuning that lowers the loss on two of them also lowers it on the third.
IMAGES, ALL_BOXES = [random_image(60, 80)] * 3, [BOXES] * 3


def test_adapt_lowers_the_loss_without_changing_the_model(inferencer):
    inferencer.set_prompts(visual=[(IMAGES[0], BOXES, NAMES)])
    before, weights = inferencer.prompts.embeddings.clone(), fingerprint(inferencer.model, whole=True)
    trained = [parameter.requires_grad for parameter in inferencer.model.parameters()]
    result = inferencer.adapt(IMAGES, ALL_BOXES, [NAMES] * 3, steps=5)
    assert (result.kept, result.checked, result.num_images, result.num_boxes, result.steps) == (True, True, 3, 6, 5)
    assert result.loss_after < result.loss_before
    assert str(result).startswith('kept: loss ')
    assert not torch.equal(inferencer.prompts.embeddings, before)
    assert fingerprint(inferencer.model, whole=True) == weights
    assert [parameter.requires_grad for parameter in inferencer.model.parameters()] == trained
    assert all(parameter.grad is None for parameter in inferencer.model.parameters())


def test_adapt_is_reproducible_and_in_the_bank(inferencer, tmp_path):
    found = []
    for name in ('a', 'b'):
        inferencer.reset_prompts()
        inferencer.adapt(IMAGES[:1], [BOXES], [NAMES], steps=3)
        inferencer.save_bank(tmp_path / f'{name}.safetensors')
        found.append(inferencer.predict(IMAGES[0], score_thr=0, as_dict=True))
    assert found[0] == found[1]
    # The bank has the tuned embeddings, and records their origin.
    bank = PromptBank.load(tmp_path / 'a.safetensors')
    assert torch.equal(bank.embeddings, PromptBank.load(tmp_path / 'b.safetensors').embeddings)
    assert bank.num_exemplars == (1, 1)
    (origin,) = bank.adaptations
    assert (origin['num_images'], origin['num_boxes'], origin['steps'], origin['images']) == (1, 2, 3, [None])
    inferencer.set_prompts(bank=tmp_path / 'a.safetensors')
    assert inferencer.predict(IMAGES[0], score_thr=0, as_dict=True) == found[0]


def test_adapt_with_two_images_is_not_checked_and_takes_ten_steps(inferencer):
    result = inferencer.adapt(IMAGES[:2], ALL_BOXES[:2], [NAMES] * 2)
    assert (result.kept, result.checked, result.steps) == (True, False, 10)
    assert result.loss_after < result.loss_before
    assert 'not checked' in str(result)


def test_adapt_without_improvement_changes_nothing(inferencer):
    inferencer.set_prompts(visual=[(IMAGES[0], BOXES, NAMES)], negative='dog')
    before = inferencer.prompts
    result = inferencer.adapt(IMAGES, ALL_BOXES, [NAMES] * 3, steps=1, lr=0.0)
    assert not result.kept
    assert result.loss_after == result.loss_before
    assert 'rejected' in str(result)
    assert inferencer.prompts is before


def test_adapt_keeps_negative_classes_and_adds_new_ones(inferencer):
    inferencer.set_prompts(visual=[(IMAGES[0], BOXES, NAMES)], negative='dog')
    inferencer.adapt(IMAGES[:1], [BOXES], ['cup'], steps=1)
    assert inferencer.prompts.names == ('cat', 'dog', 'cup')
    assert inferencer.prompts.negative.tolist() == [False, True, False]


def test_supervised_loss_equals_that_of_the_training_step(inferencer, build_tiny, make_batch):
    # A detector without denoising groups, prompted by all boxes of an image, has the same losses in training.
    inputs, samples = make_batch((2,))
    model = build_tiny().eval()
    prompts_used = {}

    def recorded(features, prompts, **options):
        prompts_used['batch'] = prompts
        return encoder(features, prompts, **options)

    encoder, model.encoder.forward = model.encoder.forward, recorded
    torch.manual_seed(0)
    losses, output = model.loss_and_output(inputs, copy.deepcopy(samples))
    model.encoder.forward = encoder
    expected = sum(v for k, v in losses.items() if 'loss' in k and 'dn_' not in k and 'grqo' not in k)
    assert output.denoising is not None
    assert float(expected.detach()) > 0
    # Give the prompts of the training step to the function.
    names = [str(label) for label in samples[0].gt_instances.labels.tolist()]
    classes = sorted(set(names), key=int)
    embeddings = prompts_used['batch'].embeddings[0][: len(classes)].detach()
    features = model.encode_image(inputs, samples)
    image = AnnotatedImage(features, samples[0], samples[0].gt_instances.bboxes, names, embeddings)
    loss = supervised_loss(model, image, PromptSet.from_classes(embeddings, classes))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_tune_of_no_steps_returns_the_embeddings(inferencer):
    prompts = PromptSet.from_classes(torch.randn(1, 32), ['cat'])
    assert torch.equal(tune(inferencer.model, [None], prompts, 0, 0.1).embeddings, prompts.embeddings)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(images=[], boxes=[]), 'at least one'),
        (dict(boxes=[BOXES]), 'boxes and names for each of 3 images'),
        (dict(names=['cat']), 'boxes and names for each of 3 images'),
        (dict(steps=0), 'steps must be an integer of at least 1'),
        (dict(lr=True), 'lr must be a number of at least 0'),
        (dict(boxes=7), 'adapt: boxes: expected a list, got 7'),
        (dict(names=None), 'adapt: names: expected a list, got None'),
        (dict(lr=-1), 'lr must be a number of at least 0'),
        (dict(boxes=[BOXES, BOXES, [[0, 0, 90, 90]]]), r'box \(0, 0, 90, 90\) leaves the image'),
        (dict(names=['a', 'b', 'c']), 'no two images show the same class'),
    ],
)
def test_adapt_rejects_bad_arguments(inferencer, arguments, message):
    with pytest.raises(InputError, match=message):
        inferencer.adapt(**dict(images=IMAGES, boxes=ALL_BOXES, steps=1) | arguments)
    assert inferencer.prompts is None


def test_adapt_rejects_prompts_that_are_not_visual(inferencer):
    inferencer.set_prompts(visual=[(IMAGES[0], BOXES, NAMES)])
    inferencer(IMAGES[0], prompts=PromptSet.from_classes(torch.randn(2, 32), NAMES))
    with pytest.raises(InputError, match='visual prompts only'):
        inferencer.adapt(IMAGES, ALL_BOXES, [NAMES] * 3)
