"""Learned policy over exemplars: probabilities, training by advantages, and weighted prompts."""

import copy
import math

import pytest
import torch

from dinor1.evaluation.prompt_protocols import VisualGeneric
from dinor1.models import ExemplarPolicy
from dinor1.models.losses import ExemplarColumns, exemplar_group_loss
from dinor1.utils.errors import InputError
from tests.evaluation.test_visual_generic import write  # noqa: F401, a fixture

POLICY = {
    'model.bbox_head.type': 'GroupRelativeHead',
    'model.bbox_head.loss_exemplar_group': dict(type='ExemplarGroupLoss'),
    'model.prompts.exemplar_policy': dict(type='ExemplarPolicy'),
}


def test_policy_starts_with_equal_probabilities():
    valid = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    found = ExemplarPolicy(8)(torch.randn(3, 3, 8), valid)
    torch.testing.assert_close(found, torch.tensor([[1 / 3] * 3, [1, 0, 0], [0, 0, 0]]))


def test_policy_is_a_softmax_of_normalised_embeddings():
    policy = ExemplarPolicy(2)
    policy.score.weight.data = torch.tensor([[1.0, 0.0]])
    # A layer norm of two values gives 1 and -1 for every distance between them.
    embeddings = torch.tensor([[[5.0, 1.0], [0.0, 9.0], [3.0, 0.0]]], requires_grad=True)
    found = policy(embeddings, torch.tensor([[True, True, False]]))
    assert found[0].tolist() == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)), 0.0], abs=1e-4)
    # The exemplars themselves get no gradient.
    assert torch.autograd.grad(found[0, 0], embeddings, allow_unused=True)[0] is None


def test_policy_loss_prefers_exemplars_of_high_advantage():
    # One object on image 0, and two exemplars on image 1 with losses 1 and 3: A = 1 / 1.2 and -1 / 1.2.
    logits = torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    focal = torch.tensor([[1.0, 3.0], [0.0, 0.0]], dtype=torch.float64).reshape(2, 1, 1, 2)
    positive = torch.tensor([True, False]).reshape(2, 1, 1)
    scores = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64, requires_grad=True)
    policy = scores.softmax(1)
    columns = ExemplarColumns(
        torch.zeros(2, 1, 2, 4), torch.tensor([[1, 1]]), torch.ones(1, 2, dtype=torch.bool), policy
    )
    loss = exemplar_group_loss(
        logits, focal, positive, torch.ones(2, 1, dtype=torch.bool), columns, column_weight=0.0, consistency_weight=0.0
    )
    advantage = 1 / 1.2
    assert loss.item() == pytest.approx(-(0.25 - 0.75) * advantage)
    # pi_g (A_g - mean of A under pi), with the opposite sign.
    gradient = torch.autograd.grad(loss, scores)[0]
    expected = 0.25 * (advantage + 0.5 * advantage)
    assert gradient[0].tolist() == pytest.approx([-expected, expected])


@pytest.mark.parametrize('counts', [(3, 3), (0, 0)])
def test_policy_is_trained_by_the_exemplar_group(build_tiny, make_batch, counts):
    model = build_tiny(**POLICY)
    inputs, samples = make_batch(counts)
    for sample in samples:
        sample.gt_instances.labels = torch.zeros(len(sample.gt_instances.labels), dtype=torch.long)
    losses = model.loss(inputs, samples)
    sum(value.sum() for name, value in losses.items() if 'loss' in name).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    assert bool(model.exemplar_policy.score.weight.grad.any()) == any(counts)


def test_policy_without_its_loss_is_rejected(build_tiny):
    with pytest.raises(InputError, match=r'^model.prompts.exemplar_policy is trained by'):
        build_tiny(**{'model.prompts.exemplar_policy': dict(type='ExemplarPolicy')})


def test_policy_weights_the_exemplars_of_an_evaluation(write, build_tiny):  # noqa: F811
    dataset, model = write(), build_tiny(**POLICY)
    protocol = VisualGeneric(dataset, 3, exemplar_weighting=dict(source='policy'))
    plain = VisualGeneric(dataset, 3).prepare(model, dataset).shared.embeddings
    # Equal probabilities give the mean.
    torch.testing.assert_close(protocol.prepare(model, dataset).shared.embeddings, plain)
    other = copy.deepcopy(model)
    other.exemplar_policy.score.weight.data.normal_()
    found = protocol.prepare(other, dataset).shared.embeddings
    assert (found - plain)[:2].abs().amax(1).min() > 1e-3
    torch.testing.assert_close(found[2], plain[2])


def test_policy_that_the_model_lacks_is_rejected(write, build_tiny):  # noqa: F811
    dataset = write()
    protocol = VisualGeneric(dataset, 3, exemplar_weighting=dict(source='policy'))
    with pytest.raises(InputError, match=r"^exemplar_weighting: source='policy' needs a model with"):
        protocol.prepare(build_tiny(), dataset)
    with pytest.raises(InputError, match=r"^exemplar_weighting: source must be 'trials' or 'policy'"):
        VisualGeneric(dataset, 3, exemplar_weighting=dict(source='other'))
