"""Rescoring of detections, with scores computed by hand, and from the output of the decoder."""

import math
from dataclasses import replace

import pytest
import torch

from dinor1.models.detectors.rescoring import Rescoring, rescore, rescoring
from dinor1.structures import BoxPrompts, PromptSet
from dinor1.utils.errors import InputError

# Unit vectors whose cosines are 1, 0.6, 0.8 and 0.
EAST, NORTH, BETWEEN = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]


def prompts_of(*rows, mask=None, negative=None):
    """One class per row, named c0, c1 and so on."""
    fields = {
        name: None if flags is None else torch.tensor(flags) for name, flags in (('mask', mask), ('neg', negative))
    }
    names = [f'c{i}' for i in range(len(rows))]
    return PromptSet.from_classes(torch.tensor(rows), names, fields['mask'], fields['neg'])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_rescore_with_one_class_is_a_sigmoid_of_the_cosine():
    settings = Rescoring(temperature=0.2, background=0.4, objectness_power=1)
    boxes = torch.tensor([EAST, BETWEEN, NORTH])
    scores = rescore(torch.tensor([1.0, 0.5, 0.5]), boxes, prompts_of(EAST), settings)
    expected = [sigmoid((1 - 0.4) / 0.2), 0.5 * sigmoid((0.6 - 0.4) / 0.2), 0.5 * sigmoid((0 - 0.4) / 0.2)]
    torch.testing.assert_close(scores[:, 0], torch.tensor(expected))


def test_rescore_lets_classes_and_background_compete():
    settings = Rescoring(temperature=0.1, background=0.5, objectness_power=0.5)
    scores = rescore(torch.tensor([0.25]), torch.tensor([BETWEEN]), prompts_of(EAST, NORTH), settings)
    total = math.exp(6) + math.exp(8) + math.exp(5)
    # The root of the objectness is 0.5.
    torch.testing.assert_close(scores, torch.tensor([[0.5 * math.exp(6) / total, 0.5 * math.exp(8) / total]]))


def test_rescore_depends_on_directions_only():
    one = rescore(torch.tensor([0.3]), torch.tensor([BETWEEN]), prompts_of(EAST, NORTH), Rescoring())
    other = rescore(torch.tensor([0.3]), 7 * torch.tensor([BETWEEN]), prompts_of([5.0, 0.0], NORTH), Rescoring())
    torch.testing.assert_close(one, other)


def test_rescore_without_objectness_ignores_it():
    settings = Rescoring(objectness_power=0)
    scores = rescore(torch.tensor([0.1, 0.9]), torch.tensor([BETWEEN, BETWEEN]), prompts_of(EAST, NORTH), settings)
    assert torch.equal(scores[0], scores[1])


def test_rescore_of_a_box_without_objectness_is_zero():
    assert torch.equal(rescore(torch.zeros(1), torch.tensor([EAST]), prompts_of(EAST), Rescoring()), torch.zeros(1, 1))


def test_negative_prompts_compete_and_are_not_reported():
    args = torch.tensor([1.0]), torch.tensor([BETWEEN])
    both = rescore(*args, prompts_of(EAST, NORTH), Rescoring())
    without = rescore(*args, prompts_of(EAST, NORTH, negative=[False, True]), Rescoring())
    assert torch.equal(without, both[:, :1])


def test_classes_that_are_not_offered_do_not_compete():
    args = torch.tensor([1.0]), torch.tensor([BETWEEN])
    alone = rescore(*args, prompts_of(EAST), Rescoring())
    assert torch.equal(rescore(*args, prompts_of(NORTH, EAST, mask=[False, True]), Rescoring()), alone)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(temperature=0), r'temperature must be a number in \[0.001, 1000\], got 0'),
        (dict(background=2), r'background must be a number in \[-1, 1\], got 2'),
        (dict(objectness_power=-1), r'objectness_power must be a number in \[0, 10\]'),
        (dict(temperature=float('nan')), 'temperature must be a number'),
        (dict(tau=0.1), "unknown key 'tau'"),
    ],
)
def test_rescoring_rejects_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        rescoring(settings)


@torch.no_grad()
@pytest.mark.parametrize('chunked_size', [-1, 2])
def test_detections_equal_those_of_rescored_queries(build_tiny, make_batch, chunked_size):
    """Compare the detections with all queries of the passes, whose boxes are encoded one image at a time."""
    options = dict(max_per_img=1000, rescoring=dict(temperature=0.3), chunked_size=chunked_size)
    model = build_tiny(**{f'model.test_cfg.{key}': value for key, value in options.items()}).eval()
    inputs, samples = make_batch((1, 2))
    prompts = PromptSet.from_classes(torch.randn(5, model.embed_dims), [f'c{i}' for i in range(5)])
    found, passes = model.predict_and_output(inputs, samples, prompts, rescale=False)
    assert len(passes) == (1 if chunked_size < 0 else 3)
    for i, sample in enumerate(found):
        height, width = sample.img_shape
        boxes, objectness = [], []
        for output, offered in passes:
            logits, box = (rows[-1, i] for rows in model.bbox_head(output))
            centre, size = box[:, :2], box[:, 2:]
            corners = torch.cat([centre - size / 2, centre + size / 2], 1)
            boxes.append(corners * torch.tensor([width, height, width, height]))
            objectness.append(logits[:, : len(offered[i].embeddings)].max(1).values.sigmoid())
        boxes, objectness = torch.cat(boxes), torch.cat(objectness)
        features = model.encode_image(inputs[i : i + 1], samples[i : i + 1])
        rows = model.encode_boxes(features, [boxes], [sample.img_shape])
        scores = rescore(objectness, rows, prompts, Rescoring(temperature=0.3)).flatten()
        instances = sample.pred_instances
        assert len(instances) == len(scores)
        # A single image has other rounding than a batch of two.
        torch.testing.assert_close(instances.scores, scores.sort(descending=True).values, atol=1e-5, rtol=0)
        best = scores.argmax()
        limits = torch.tensor([width, height, width, height])
        torch.testing.assert_close(
            instances.bboxes[0], boxes[best // 5].clamp(min=0).minimum(limits), atol=1e-3, rtol=0
        )
        assert instances.labels[0] == best % 5
        assert instances.label_names[0] == f'c{best % 5}'


@torch.no_grad()
def test_image_without_prompts_has_no_detections(build_tiny, make_batch):
    model = build_tiny(**{'model.test_cfg.rescoring': {}}).eval()
    inputs, samples = make_batch((0, 2))
    names = [f'c{i}' for i in range(8)]
    prompts = [BoxPrompts(s.gt_instances.bboxes, s.gt_instances.labels, names) for s in samples]
    empty, other = model.predict(inputs, samples, prompts)
    assert len(empty.pred_instances) == 0
    assert len(other.pred_instances) > 0


@torch.no_grad()
def test_pass_without_classes_of_an_image_adds_no_detection(build_tiny, make_batch):
    """The second image has classes in the first pass only: the boxes of the other passes score 0."""
    model = build_tiny(
        **{'model.test_cfg.rescoring': {}, 'model.test_cfg.chunked_size': 2, 'model.test_cfg.max_per_img': 1000}
    ).eval()
    inputs, samples = make_batch((1, 1))
    prompts = PromptSet.from_classes(torch.randn(5, model.embed_dims), [f'c{i}' for i in range(5)])
    few = replace(prompts, mask=torch.tensor([True, True, False, False, False]))
    _, second = model.predict(inputs, samples, [prompts, few])
    num_queries = model.num_queries
    assert (second.pred_instances.scores > 0).sum() == 2 * num_queries


@torch.no_grad()
def test_prompts_with_names_keep_the_scores_of_the_decoder(build_tiny, make_batch):
    """Text prompts, and any set that contains some."""
    model = build_tiny(**{'model.test_cfg.rescoring': {}}).eval()
    inputs, samples = make_batch((1,))
    visual = PromptSet.from_classes(torch.randn(2, model.embed_dims), ['a', 'b'])
    text = replace(PromptSet.from_classes(torch.randn(2, model.embed_dims), ['b', 'c']), visual=False)
    only_c = replace(PromptSet.from_classes(torch.randn(1, model.embed_dims), ['c']), visual=False)

    def scores(prompts, rescoring):
        model.rescoring = rescoring
        return model.predict(inputs, samples, prompts)[0].pred_instances.scores

    for prompts in (text, visual.mix(text), PromptSet.concat([visual, only_c])):
        assert not prompts.visual
        assert torch.equal(scores(prompts, Rescoring()), scores(prompts, None))
    assert not torch.equal(scores(visual, Rescoring()), scores(visual, None))
