"""Weights of exemplars by their success on the other support images, against a detector with known logits."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from torch import nn

from dinor1.evaluation import Exemplar, ExemplarWeighting
from dinor1.evaluation.exemplar_weighting import policy_weights, rewards_on_image, weigh_exemplars
from dinor1.evaluation.prompt_protocols import VisualGeneric
from dinor1.utils.errors import InputError
from tests.evaluation.test_visual_generic import write  # noqa: F401, a fixture

# Query 0 is the object, query 1 covers three quarters of it, the others lie elsewhere; normalised cxcywh.
BOXES = torch.tensor([[0.2, 0.2, 0.4, 0.4], [0.15, 0.2, 0.3, 0.4], [0.8, 0.8, 0.4, 0.4], [0.8, 0.2, 0.2, 0.2]])
TRUTH = torch.tensor([[0.0, 0, 40, 40]])


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize(
    ('settings', 'false_positives'),
    [({}, (-2.0, -0.5)), (dict(num_false_positives=1), (0.0, 1.0)), (dict(num_false_positives=2), (-2.0, -0.5))],
    ids=str,
)
def test_reward_is_success_less_false_positives(settings, false_positives):
    logits = torch.tensor([[2.0, -1.0], [3.0, 3.0], [0.0, 1.0], [-4.0, -2.0]])
    found = rewards_on_image(logits, BOXES, TRUTH, (100, 100), ExemplarWeighting(**settings))
    # The query that covers the object too is neither.
    expected = [log_sigmoid(z) - 0.5 * other for z, other in zip((2.0, -1.0), false_positives, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_reward_without_false_positives_is_success_alone():
    found = rewards_on_image(torch.tensor([[2.0], [3.0]]), BOXES[:2], TRUTH, (100, 100), ExemplarWeighting())
    assert found.tolist() == pytest.approx([log_sigmoid(2.0)], rel=1e-5)


def test_reward_averages_over_the_objects():
    truth = torch.tensor([[0.0, 0, 40, 40], [60, 60, 100, 100]])
    logits = torch.tensor([[2.0], [3.0], [0.0], [-4.0]])
    found = rewards_on_image(logits, BOXES, truth, (100, 100), ExemplarWeighting())
    assert found.tolist() == pytest.approx([(log_sigmoid(2.0) + log_sigmoid(0.0)) / 2 + 0.5 * 4.0], rel=1e-5)


def test_policy_weights_are_a_softmax_of_advantages():
    rewards = torch.tensor([1.0, 7.0, 0.0, math.nan, math.nan])
    labels = torch.tensor([0, 2, 0, 0, 5])
    # Class 0 has mean 0.5 and deviation 0.5 over the exemplars that were tried.
    advantage = 0.5 / 0.55
    exponentials = [math.exp(advantage / 2), math.exp(-advantage / 2), 1.0]
    found = policy_weights(rewards, labels, tau=2.0)
    assert found[[0, 2, 3]].tolist() == pytest.approx([x / sum(exponentials) for x in exponentials], rel=1e-5)
    # Classes with one exemplar.
    assert found[[1, 4]].tolist() == [1.0, 1.0]


class Images:
    """Three images of 200 pixels with the object above as class 0; the first two show one of class 1 too."""

    def get_data_info(self, index):
        instances = [dict(bbox=[0, 0, 80, 80], bbox_label=0)]
        if index < 2:
            instances.append(dict(bbox=[120, 120, 200, 200], bbox_label=1))
        return dict(img_id=index, instances=instances)

    def __getitem__(self, index):
        meta = dict(img_id=index, img_shape=(100, 100), scale_factor=(0.5, 0.5))
        return dict(inputs=torch.zeros(3, 1, 1), data_samples=DetDataSample(metainfo=meta))


class Detector(nn.Module):
    """The logits of the four queries for a prompt are its embedding, less 1 on image 2."""

    def data_preprocessor(self, data, training):
        assert not training
        return dict(inputs=torch.stack(data['inputs']), data_samples=data['data_samples'])

    def encode_image(self, inputs, samples):
        return samples[0].img_id

    def transform(self, image, prompts):
        logits = prompts.embeddings[0].t() - float(image == 2)
        return SimpleNamespace(hidden_states=[None] * 6, logits=logits)

    def bbox_head(self, output, layers):
        assert layers == [5]
        return output.logits[None, None], BOXES[None, None]


def test_exemplars_are_tried_on_the_images_of_the_others():
    exemplars = [Exemplar(0, 0, (0, 0, 80, 80), 0), Exemplar(0, 0, (120, 120, 200, 200), 1)]
    exemplars += [Exemplar(i, i, (0, 0, 80, 80), 0) for i in (1, 2)]
    embeddings = torch.tensor([[2.0, 0, -5, -5], [0, 0, 3, 0], [1.0, 0, -5, -5], [0.0, 0, 1, 1]])
    labels = torch.tensor([0, 1, 0, 0])
    model = Detector().train()
    found = weigh_exemplars(model, Images(), exemplars, embeddings, labels, ExemplarWeighting(tau=2.0))
    assert model.training

    def reward(hit, others, images):
        """Mean over images of the success, less half of the log-odds of the two queries elsewhere."""
        rewards = [log_sigmoid(hit - (i == 2)) - 0.5 * (others - (i == 2)) for i in images]
        return sum(rewards) / len(rewards)

    # Each exemplar of class 0 is tried on the two other images.
    rewards = [reward(2.0, -5.0, (1, 2)), reward(1.0, -5.0, (0, 2)), reward(0.0, 1.0, (0, 1))]
    mean = sum(rewards) / 3
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 3)
    exponentials = [math.exp((r - mean) / (deviation + 0.05) / 2.0) for r in rewards]
    assert found[[0, 2, 3]].tolist() == pytest.approx([x / sum(exponentials) for x in exponentials], rel=1e-5)
    # The only exemplar of class 1 cannot be tried.
    assert found[1] == 1


@pytest.mark.parametrize('encoder', [{}, {'model.prompts.encoder': dict(type='AggregatingPromptEncoder')}], ids=str)
def test_visual_generic_weighs_exemplars(write, build_tiny, encoder):  # noqa: F811
    # An aggregating encoder has one embedding for the exemplars of a class on an image.
    dataset = write()
    model = build_tiny(**encoder)
    prompts = {
        tau: VisualGeneric(dataset, 3, exemplar_weighting=None if tau is None else dict(tau=tau)).prepare(
            model, dataset
        )
        for tau in (None, 1e6, 0.5)
    }
    plain, warm, cold = (prompts[tau].shared.embeddings for tau in (None, 1e6, 0.5))
    # A high temperature gives the mean.
    torch.testing.assert_close(warm, plain, atol=1e-4, rtol=1e-4)
    assert (cold - plain)[:2].abs().amax(1).min() > 1e-3
    # The third class has one exemplar.
    torch.testing.assert_close(cold[2], plain[2])
    assert prompts[0.5].description['exemplar_weighting']['tau'] == 0.5
    assert 'exemplar_weighting' not in prompts[None].description
    assert prompts[0.5].file_stem != prompts[None].file_stem


def test_visual_generic_keeps_its_weighting_with_another_seed(write):  # noqa: F811
    other = VisualGeneric(write(), 3, exemplar_weighting=dict(tau=2.0)).with_seed(7)
    assert other.weighting == ExemplarWeighting(tau=2.0)
    assert other.seed == 7


@pytest.mark.parametrize(
    'settings', [dict(tau=0.0), dict(num_false_positives=0), dict(false_positive_weight=-1.0), dict(taw=1.0)], ids=str
)
def test_exemplar_weighting_rejects_settings_out_of_range(write, settings):  # noqa: F811
    with pytest.raises(InputError, match='^exemplar_weighting: ') as caught:
        VisualGeneric(write(), 3, exemplar_weighting=settings)
    assert '\n' not in str(caught.value)
