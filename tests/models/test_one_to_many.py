"""One-to-many branch with a group of queries per object: assignment, weights, order of the decoder, and losses."""

import copy
import math

import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from dinor1.models import OneToManyLoss
from dinor1.models.losses import candidate_scores, candidate_weights, one_to_many_candidates, pad_targets
from dinor1.registry import MODELS
from dinor1.utils.errors import InputError
from tests.models.grqo_scenes import scene

CROSS_FIRST = {'model.decoder.layer_order': 'cross_first'}
HEAD = {'model.bbox_head.type': 'GroupRelativeHead'}


def targets_of(num_objects, classes=3):
    boxes = torch.tensor([[0.0, 0, 40, 40], [50, 50, 90, 90], [0, 50, 40, 90]])[:num_objects]
    return pad_targets([boxes], [torch.eye(classes)[:num_objects]], [(100, 100)])


def assigned(score, iou, **settings):
    """Pairs (query, object) of one image, from lists (Q, M) of scores and IoUs."""
    score, iou = (torch.tensor(values)[None, None] for values in (score, iou))
    candidates = one_to_many_candidates(score, iou, targets_of(score.shape[-1]), **settings)
    return list(zip(candidates.match.query.tolist(), candidates.match.target.tolist(), strict=True))


# Assignment ------------------------------------------------------------------------------------------------


def test_candidate_score_mixes_iou_and_probability():
    # The box covers the right 32 of 40 columns of the object, and p = 3/4 for its class.
    boxes = torch.tensor([[[[0.24, 0.2, 0.32, 0.4]]]])
    logits = torch.tensor([[[[math.log(3), -math.inf, 0.0]]]])
    score, iou = candidate_scores(logits, boxes, targets_of(1))
    assert iou.item() == pytest.approx(0.8)
    assert score.item() == pytest.approx(0.7 * 0.8 + 0.3 * 0.75)


def test_candidates_exceed_an_iou_unless_they_are_the_best():
    assert assigned([[0.9], [0.5], [0.6]], [[0.8], [0.41], [0.4]]) == [(0, 0), (1, 0)]
    # No query covers the object, but the best query is assigned to it.
    assert assigned([[0.1], [0.2], [0.0]], [[0.1], [0.3], [0.0]]) == [(1, 0)]


def test_candidates_serve_the_object_of_the_highest_score():
    overlap = [[0.6, 0.6]] * 4
    # Queries 0 and 3 are the best ones, 1 prefers the first object, and 2 the second.
    assert assigned([[0.9, 0.1], [0.5, 0.4], [0.4, 0.5], [0.1, 0.9]], overlap) == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_candidates_give_every_object_a_query_of_its_own():
    # Query 0 is the best query of both objects. The total score is larger if query 1 is assigned to the first object.
    assert assigned([[0.9, 0.8], [0.8, 0.1]], [[0.7, 0.7], [0.7, 0.7]]) == [(0, 1), (1, 0)]


def test_candidates_are_the_six_best():
    score = [[0.1 * i] for i in range(9)]
    assert assigned(score, [[0.5]] * 9) == [(i, 0) for i in range(3, 9)]
    assert assigned(score, [[0.5]] * 9, size=1) == [(8, 0)]
    assert assigned(score, [[0.5]] * 9, size=20) == [(i, 0) for i in range(9)]


def test_candidates_of_fewer_queries_than_objects():
    assert assigned([[0.2, 0.9, 0.3]], [[0.5, 0.5, 0.5]]) == [(0, 1)]


def test_candidates_of_stages_and_images_have_groups_of_their_own():
    (logits, boxes), _, targets, _, _ = scene(labels=((0, 1), (), (2,)), queries=8)
    score, iou = candidate_scores(logits, boxes, targets)
    candidates = one_to_many_candidates(score, iou, targets, min_iou=0.1)
    match = candidates.match
    # There are three objects in each of two stages, and no query is assigned to two of them.
    assert len(candidates.group.unique()) == 6
    assert set(match.image.tolist()) == {0, 2}
    served = list(zip(match.stage.tolist(), match.image.tolist(), match.query.tolist(), strict=True))
    assert len(served) == len(set(served)) > 6


def test_candidates_without_objects_are_none():
    (logits, boxes), _, targets, _, _ = scene(labels=((), ()))
    match, weights = OneToManyLoss()(logits, boxes, targets)
    assert len(match.query) == len(weights) == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_candidates_in_half_precision_are_those_of_rounded_logits(dtype):
    (logits, boxes), _, targets, _, _ = scene(dtype=torch.float32)
    logits = logits.detach().to(dtype)
    logits[:, 1, :, 0] = -math.inf
    (match, weights), (expected, wanted) = (
        OneToManyLoss(min_iou=0.1)(values, boxes, targets) for values in (logits, logits.float())
    )
    assert all(torch.equal(a, b) for a, b in zip(match, expected, strict=True))
    assert torch.equal(weights, wanted)
    assert weights.isfinite().all()


# Weights ---------------------------------------------------------------------------------------------------


def test_candidate_weights_are_a_softmax_of_advantages_per_object():
    score = torch.tensor([0.9, 0.2, 0.5, 0.1, 0.1], dtype=torch.float64)
    group = torch.tensor([7, 3, 7, 4, 4])
    # Group 7 has mean 0.7 and deviation 0.2, so that A = 0.8 and -0.8.
    high = 2 / (1 + math.exp(-1.6))
    assert candidate_weights(score, group).tolist() == pytest.approx([high, 1.0, 2 - high, 1.0, 1.0])
    assert candidate_weights(score, group, 'uniform').tolist() == [1.0] * 5


def test_candidate_weights_do_not_depend_on_the_difficulty_of_an_object():
    score = torch.tensor([0.9, 0.5, 0.3], dtype=torch.float64)
    group = torch.zeros(3, dtype=torch.long)
    both = candidate_weights(torch.cat([score, score - 0.3]), torch.cat([group, group + 1]))
    torch.testing.assert_close(both[:3], both[3:], atol=1e-12, rtol=0)


def test_candidate_weights_shuffled_keep_the_values_of_every_object():
    score = torch.rand(9, dtype=torch.float64)
    group = torch.tensor([5, 2, 5, 2, 2, 5, 5, 9, 2])
    expected = candidate_weights(score, group)
    changed = 0
    for _ in range(10):
        found = candidate_weights(score, group, 'shuffled')
        for index in (2, 5, 9):
            assert sorted(found[group == index].tolist()) == sorted(expected[group == index].tolist())
        changed += int(not torch.equal(found, expected))
    assert changed > 5


def test_candidate_weights_have_no_gradient():
    score = torch.rand(4, requires_grad=True)
    assert not candidate_weights(score, torch.tensor([0, 0, 1, 1])).requires_grad


@pytest.mark.parametrize(
    'settings',
    [dict(weights='other'), dict(size=0), dict(min_iou=1.0), dict(iou_share=-0.1), dict(loss_weight=math.inf)],
    ids=str,
)
def test_one_to_many_rejects_settings_out_of_range(settings):
    with pytest.raises(InputError, match='^OneToManyLoss: ') as caught:
        MODELS.build(dict(type='OneToManyLoss') | settings)
    assert '\n' not in str(caught.value)


# In the detector -------------------------------------------------------------------------------------------


def losses_of(model, batch):
    torch.manual_seed(0)
    return copy.deepcopy(model).loss_and_output(*copy.deepcopy(batch))


def test_decoder_order_changes_no_weights_and_no_losses_by_name(build_tiny, make_batch):
    usual, other = build_tiny(), build_tiny(**CROSS_FIRST)
    other.load_state_dict(usual.state_dict())
    batch = make_batch((2, 1))
    (expected, output), (found, reordered) = (losses_of(model, batch) for model in (usual, other))
    assert found.keys() == expected.keys()
    assert output.branch_states is None
    assert reordered.branch_states.shape == reordered.hidden_states.shape
    # Query selection comes before the decoder.
    assert torch.equal(found['enc_loss_cls'], expected['enc_loss_cls'])
    assert not torch.equal(found['loss_cls'], expected['loss_cls'])


def test_decoder_branch_of_the_first_layer_does_not_depend_on_other_queries(build_tiny, make_batch):
    model = build_tiny(**CROSS_FIRST)
    inputs, samples = make_batch((2, 1))
    with torch.no_grad():
        _, first = losses_of(model, (inputs, samples))
        model.query_embedding.weight[0] += torch.randn(32)
        _, second = losses_of(model, (inputs, samples))
    num_dn = first.denoising.num_queries
    before, after = (output.branch_states[0, :, num_dn:] for output in (first, second))
    assert not torch.equal(before[:, 0], after[:, 0])
    torch.testing.assert_close(before[:, 1:], after[:, 1:], atol=1e-6, rtol=0)
    before, after = (output.hidden_states[0, :, num_dn:] for output in (first, second))
    assert ((before - after).abs().amax(-1) > 1e-5).all()


def test_one_to_many_loss_without_the_order_is_rejected(build_tiny):
    with pytest.raises(InputError, match=r"set model.decoder.layer_order='cross_first'$"):
        build_tiny(**HEAD, **{'model.bbox_head.loss_one_to_many': dict(type='OneToManyLoss')})
    with pytest.raises(InputError, match='layer_order must be'):
        build_tiny(**{'model.decoder.layer_order': 'last'})


@pytest.mark.parametrize('weights', ['advantage', 'uniform'])
def test_one_to_many_loss_equals_a_loop_over_queries(build_tiny, make_batch, weights):
    loss = dict(type='OneToManyLoss', weights=weights, min_iou=0.0, loss_weight=0.5)
    model = build_tiny(**CROSS_FIRST, **HEAD, **{'model.bbox_head.loss_one_to_many': loss})
    inputs, samples = make_batch((3, 1))
    labels = [[0, 1, 1], [2]]
    for sample, own in zip(samples, labels, strict=True):
        sample.gt_instances.labels = torch.tensor(own)
    losses, output = losses_of(model, (inputs, samples))
    # Predict with the heads of the decoder, and assign queries.
    num_dn = output.denoising.num_queries
    states, references = output.branch_states[:, :, num_dn:], output.references[:, :, num_dn:]
    logits, boxes = model.bbox_head(output._replace(hidden_states=states, references=references))
    truth = [sample.gt_instances.bboxes for sample in samples]
    targets = pad_targets(truth, [torch.eye(3)[own] for own in labels], [(64, 64)] * 2)
    match, weight = OneToManyLoss(weights=weights, min_iou=0.0)(logits, boxes, targets)
    assert len(match.query) > 8
    # Sum the losses of every query and of every pair.
    for layer, name in enumerate(('d0.loss_one_to_many', 'loss_one_to_many')):
        pairs = {
            (image, query): (target, w)
            for stage, image, query, target, w in zip(*(x.tolist() for x in (*match, weight)), strict=True)
            if stage == layer
        }
        total = 0.0
        for image in range(2):
            for query in range(logits.shape[2]):
                target, w = pairs.get((image, query), (None, 1.0))
                for prompt in range(3):
                    hit = target is not None and labels[image][target] == prompt
                    focal = sigmoid_focal_loss(logits[layer, image, query, prompt], torch.tensor(float(hit)))
                    total += 2 * (w if hit else 1.0) * focal.item()
                if target is not None:
                    box, wanted = boxes[layer, image, query], targets.boxes[image, target]
                    corners = [box_convert(b, 'cxcywh', 'xyxy') * 64 for b in (box, wanted)]
                    total += w * (5 * (box - wanted).abs().sum() + 2 * generalized_box_iou_loss(*corners)).item()
        assert losses[name].item() == pytest.approx(0.5 * total / len(pairs), rel=1e-4)


@pytest.mark.parametrize('counts', [(2, 1), (3, 0), (0, 0)])
def test_one_to_many_loss_is_added_and_reaches_every_parameter(build_tiny, make_batch, counts):
    loss = {'model.bbox_head.loss_one_to_many': dict(type='OneToManyLoss')}
    plain, model = build_tiny(**CROSS_FIRST), build_tiny(**CROSS_FIRST, **HEAD, **loss)
    model.load_state_dict(plain.state_dict())
    batch = make_batch(counts)
    expected, found = losses_of(plain, batch)[0], losses_of(model, batch)[0]
    assert found.keys() - expected.keys() == {'d0.loss_one_to_many', 'loss_one_to_many'}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(value.isfinite() for value in found.values())
    # As with the usual losses, no parameter is without a gradient.
    losses = model.loss(*copy.deepcopy(batch))
    sum(value.sum() for name, value in losses.items() if 'loss' in name).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_one_to_many_gradient_reaches_the_branch_of_every_query(build_tiny, make_batch):
    loss = dict(type='OneToManyLoss', min_iou=0.0)
    model = build_tiny(**CROSS_FIRST, **HEAD, **{'model.bbox_head.loss_one_to_many': loss})
    losses, output = losses_of(model, make_batch((1, 0)))
    gradient = torch.autograd.grad(losses['loss_one_to_many'], output.branch_states)[0]
    # The loss of the last layer has no gradient at the branch of the first one, nor at denoising queries.
    num_dn = output.denoising.num_queries
    assert not gradient[0].any()
    assert not gradient[:, :, :num_dn].any()
    assert (gradient[1, :, num_dn:].abs().amax(-1) > 0).all()
