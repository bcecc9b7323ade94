"""Exemplars of GRQO's reference model, and the weight of its KL over the decoder layers."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from dinor1.engine import ReferenceModelHook
from dinor1.models import GRQOLoss, ReferenceModel
from dinor1.models.prompts import PromptDraw, PromptsConfig, draw_prompts, redraw_exemplars
from dinor1.utils.errors import InputError
from tests.models.grqo_scenes import per_layer, scene

# Class 4 has three boxes on two images, class 7 has one; the third image is empty.
LABELS = [torch.tensor([4, 7, 4]), torch.tensor([4]), torch.tensor([], dtype=torch.long)]


def samples_of(labels):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    samples = [DetDataSample() for _ in labels]
    for sample, label in zip(samples, labels, strict=True):
        sample.gt_instances = InstanceData(labels=label)
    return samples


def boxes_of(draw):
    return list(zip(draw.image.tolist(), draw.box.tolist(), strict=True))


def test_redraw_is_uniform_over_the_boxes_of_each_class():
    config = PromptsConfig(prompt_dropout=1.0)
    draw, labels, _ = draw_prompts(samples_of(LABELS), config)
    counts = {}
    for _ in range(600):
        other = redraw_exemplars(draw, labels, config)
        # Classes and the images that they are offered to are those of the student.
        assert torch.equal(other.labels, draw.labels)
        assert other.offered is draw.offered
        first, second = boxes_of(other)
        counts[first] = counts.get(first, 0) + 1
        assert second == (0, 1)
    # Each of three boxes is expected 200 times, with a standard deviation of 12.
    assert set(counts) == {(0, 0), (0, 2), (1, 0)}
    assert all(140 < count < 260 for count in counts.values())


def test_redraw_of_prototypes_has_weights_of_its_own():
    config = PromptsConfig(prompt_sampling='class_prototype')
    draw, labels, _ = draw_prompts(samples_of(LABELS), config)
    first_rows = {tuple(redraw_exemplars(draw, labels, config).weights[0].tolist()) for _ in range(60)}
    # Image 0 has one or two exemplars of class 4, which have its weight together.
    assert first_rows == {(0.5, 0, 0, 0.5), (0, 0, 0.5, 0.5), (0.25, 0, 0.25, 0.5)}


def test_redraw_of_pairs_has_exemplars_of_its_own():
    config = PromptsConfig(encoder=dict(type='AggregatingPromptEncoder'))
    draw, labels, _ = draw_prompts(samples_of(LABELS), config, pairs=True)
    images = {(*boxes_of(other), *map(tuple, (e.tolist() for e in other.exemplars))) for other in (
        redraw_exemplars(draw, labels, config, pairs=True) for _ in range(100)
    )}  # fmt: skip
    # The pair of class 4 lies on either image, and has one or two exemplars on the first.
    assert {entry[0] for entry in images} == {(0, 0), (1, 0)}
    assert {entry[2] for entry in images} == {(4, 7, -1), (-1, 7, 4), (4, 7, 4)}


@pytest.mark.parametrize('labels', [[torch.tensor([], dtype=torch.long)] * 2, LABELS])
def test_redraw_without_exemplars_is_the_same_draw(labels):
    config = PromptsConfig()
    draw, labels, _ = draw_prompts(samples_of(labels), config)
    if draw.box[0] >= 0:
        draw = draw._replace(text=torch.zeros(2, 4))
    assert redraw_exemplars(draw, labels, config) is draw


def losses_of(model, batch, own_draw):
    # Copy the model, because a training step changes the statistics of its batch norms.
    model = copy.deepcopy(model)
    model.reference = ReferenceModel(copy.deepcopy(model).eval(), own_draw=own_draw)
    torch.manual_seed(0)
    return model.loss(*copy.deepcopy(batch))


def test_reference_draw_with_one_exemplar_per_class_is_shared(build_tiny, make_batch):
    model = build_tiny(**{'model.bbox_head.loss_grqo': dict(type='GRQOLoss')})
    inputs, samples = make_batch((2, 1))
    for sample, labels in zip(samples, ([3, 5], [1]), strict=True):
        sample.gt_instances.labels = torch.tensor(labels)
    shared, own = (losses_of(model, (inputs, samples), own_draw) for own_draw in (False, True))
    # Denoising draws random numbers before the reference does, so that everything is the same.
    assert shared.keys() == own.keys()
    assert all(torch.equal(shared[name], own[name]) for name in shared)


def test_reference_draw_of_its_own_only_changes_the_kl(build_tiny, make_batch):
    model = build_tiny(**{'model.bbox_head.loss_grqo': dict(type='GRQOLoss')})
    inputs, samples = make_batch((4, 4))
    for sample in samples:
        sample.gt_instances.labels = torch.zeros(4, dtype=torch.long)
    shared, own = (losses_of(model, (inputs, samples), own_draw) for own_draw in (False, True))
    changed = {name for name in shared if not torch.equal(shared[name], own[name])}
    assert changed == {'d0.loss_grqo', 'loss_grqo', 'grqo_kl'}


@pytest.mark.parametrize('settings', [{}, dict(groups='prompt'), dict(one_sided_kl=True)], ids=str)
def test_beta_for_all_layers_is_divided_among_them(settings):
    _, cost, targets, tokens, ref = scene(layers=3)
    divided = per_layer(GRQOLoss(beta=0.24, beta_per_layer=False, **settings), cost, targets, tokens, ref)
    each = per_layer(GRQOLoss(beta=0.08, **settings), cost, targets, tokens, ref)
    torch.testing.assert_close(divided, each, atol=1e-12, rtol=0)


def test_kl_with_another_draw_has_the_value_computed_by_hand():
    # Objectness is 1/2; under the reference's exemplars it is 1/4, so that KL = 1/2 + log 2 - 1.
    _, _, targets, _, _ = scene(labels=((0,),), prompts=1)
    cost = torch.zeros(2, 1, 3, 1, dtype=torch.float64)
    tokens = torch.zeros(1, 3, 1, dtype=torch.float64)
    ref = torch.full((1, 3), -math.log(3), dtype=torch.float64)
    loss = GRQOLoss(alpha=0.0, beta=0.24, beta_per_layer=False)
    expected = torch.full((2,), 0.12 * (math.log(2) - 0.5), dtype=torch.float64)
    torch.testing.assert_close(per_layer(loss, cost, targets, tokens, ref), expected, atol=1e-9, rtol=0)


def test_reference_draw_that_does_not_exist_is_rejected():
    with pytest.raises(
        InputError, match=r"^ReferenceModelHook: reference_draw must be 'shared' or 'own', got 'other'$"
    ):
        ReferenceModelHook(reference_draw='other')


def test_reference_draw_keeps_prompts_of_a_memory():
    draw = PromptDraw(
        torch.tensor([1]), torch.tensor([0]), torch.tensor([4, 9]), memory=torch.ones(2, 1, 3), offered=torch.ones(2, 2)
    )
    labels = [torch.tensor([4]), torch.tensor([4])]
    other = redraw_exemplars(draw, labels, PromptsConfig())
    assert other.memory is draw.memory
    assert torch.equal(other.labels, draw.labels)
    assert len(other.box) == 1


def test_reference_draw_of_several_processes_is_rejected(build_tiny):
    world = {'model.prompts.prompt_gather': 'world', 'model.prompts.prompt_sampling': 'class_prototype'}
    model = build_tiny(**world, **{'model.bbox_head.loss_grqo': dict(type='GRQOLoss')})
    with pytest.raises(
        InputError, match=r"^ReferenceModelHook: reference_draw='own' draws from the boxes of one process"
    ):
        ReferenceModelHook(reference_draw='own').before_train(SimpleNamespace(model=model))


def test_reference_draw_without_prompts_is_rejected():
    head = SimpleNamespace(loss_grqo=GRQOLoss())
    model = SimpleNamespace(bbox_head=head, objectness=None, num_queries=12)
    with pytest.raises(
        InputError, match=r"^ReferenceModelHook: reference_draw='own' draws exemplars, and .* no prompts"
    ):
        ReferenceModelHook(reference_draw='own').before_train(SimpleNamespace(model=model))
