"""Ways to sample the prompts of a training batch."""

import pytest
import torch

from dinor1.models.prompts import (
    PromptsConfig,
    draw_prompts,
    drop_prompts,
    offered_boxes,
    per_image_weights,
    prototype_weights,
    sample_prompts,
)
from dinor1.utils.errors import InputError

# Class 4 occurs on two images, class 7 on one; the third image is empty.
LABELS = [torch.tensor([4, 7, 4]), torch.tensor([4]), torch.tensor([], dtype=torch.long)]
CLASSES = torch.tensor([4, 7])


def total(losses):
    return sum(value.sum() for name, value in losses.items() if 'loss' in name)


# Class prototypes -------------------------------------------------------------------------------------------


def test_prototype_gives_every_image_the_same_weight():
    torch.manual_seed(0)
    seen = set()
    for _ in range(100):
        weights = prototype_weights(LABELS, CLASSES)
        seen.add(tuple(weights[0].tolist()))
        assert weights[1].tolist() == [0, 1, 0, 0]
    # Image 0 has one or two exemplars of class 4, which have its weight together.
    assert seen == {(0.5, 0, 0, 0.5), (0, 0, 0.5, 0.5), (0.25, 0, 0.25, 0.5)}


def test_prototype_without_the_image_itself():
    torch.manual_seed(0)
    weights = prototype_weights(LABELS, CLASSES, exclude_self=True)
    assert weights.shape == (3, 2, 4)
    assert weights[0, 0].tolist() == [0, 0, 0, 1]
    assert weights[1, 0, 3] == 0
    assert weights[1, 0].sum() == 1
    # The empty image gets the whole prototype, and the only image of class 7 keeps its own exemplar.
    assert weights[2, 0, 3] == 0.5
    assert weights[:, 1].tolist() == [[0, 1, 0, 0]] * 3


def test_prototypes_do_not_depend_on_the_order_of_the_images():
    """With one box per image and class there is nothing to draw."""
    labels = [torch.tensor([4]), torch.tensor([7, 4]), torch.tensor([4])]
    for exclude_self in (False, True):
        forward = prototype_weights(labels, CLASSES, exclude_self)
        backward = prototype_weights(labels[::-1], CLASSES, exclude_self)
        assert torch.equal(forward[..., [3, 1, 2, 0]], backward.flip(0) if exclude_self else backward)


# Prompts per image ------------------------------------------------------------------------------------------


def test_per_image_prompts_have_exemplars_of_the_image_or_of_others():
    torch.manual_seed(0)
    rows = torch.stack([per_image_weights(LABELS, CLASSES) for _ in range(2000)])
    torch.testing.assert_close(rows.sum(-1), torch.ones(2000, 3, 2))
    # Class 4 on image 0: its own boxes 0 and 2 half of the time, else box 3 of image 1; never a mixture.
    own, other = rows[:, 0, 0, [0, 2]].sum(-1), rows[:, 0, 0, 3]
    assert set(own.tolist()) == {0.0, 1.0}
    assert abs(own.mean() - 0.5) < 0.05  # 2000 draws: standard deviation 0.011
    assert torch.equal(own + other, torch.ones(2000))
    # Both own boxes are used in a quarter of the draws with own exemplars: half draw a number, which is 1 or 2.
    both = (rows[:, 0, 0, 0] == 0.5).float().mean()
    assert abs(both - 0.125) < 0.04  # standard deviation 0.007
    # Class 7 has a single box, for every image.
    assert (rows[:, :, 1] == torch.tensor([0.0, 1, 0, 0])).all()


def test_per_image_prompts_have_at_most_the_given_number_of_exemplars():
    torch.manual_seed(0)
    labels = [torch.zeros(40, dtype=torch.long)]
    counts = torch.stack([(per_image_weights(labels, torch.tensor([0]), 5) > 0).sum() for _ in range(300)])
    assert set(counts.tolist()) == {1, 2, 3, 4, 5}
    assert abs((counts == 1).float().mean() - 0.6) < 0.15  # half have one by choice; standard deviation 0.03


# Offered prompts --------------------------------------------------------------------------------------------


def test_dropping_keeps_a_uniform_number_of_prompts():
    torch.manual_seed(0)
    offered = torch.tensor([[True] * 4, [True, False, True, False], [False, False, False, True]]).repeat(3000, 1, 1)
    kept = torch.stack([drop_prompts(one, 1.0) for one in offered])
    assert not (kept & ~offered).any()
    for image, available in enumerate((4, 2, 1)):
        share = kept[:, image].sum(-1).bincount(minlength=5)[1:] / 3000
        expected = torch.tensor([1 / available if i < available else 0.0 for i in range(4)])
        torch.testing.assert_close(share, expected, atol=0.05, rtol=0)  # standard deviation 0.009
    # All prompts are kept with equal frequency: (1 + 2 + 3 + 4) / 4 of 4.
    torch.testing.assert_close(kept[:, 0].float().mean(0), torch.full((4,), 0.625), atol=0.05, rtol=0)


def test_dropping_chooses_images_with_the_given_probability():
    torch.manual_seed(0)
    offered = torch.ones(4000, 10, dtype=torch.bool)
    assert torch.equal(drop_prompts(offered, 0.0), offered)
    changed = (drop_prompts(offered, 0.5) != offered).any(1).float().mean()
    assert abs(changed - 0.45) < 0.04  # one in ten chosen images keeps all; standard deviation 0.008


def test_boxes_of_classes_that_are_not_offered_are_left_out():
    draw = sample_prompts(LABELS)
    offered = torch.tensor([[True, False], [False, True], [True, True]])
    assert [keep.tolist() for keep in offered_boxes(LABELS, draw)] == [[True] * 3, [True], []]
    kept = offered_boxes(LABELS, draw._replace(offered=offered))
    assert [keep.tolist() for keep in kept] == [[True, False, True], [False], []]


# Training ---------------------------------------------------------------------------------------------------

SETTINGS = [
    dict(prompt_sampling='class_prototype'),
    dict(prompt_sampling='class_prototype', exclude_self=True),
    dict(prompt_sampling='per_image'),
    dict(prompt_sampling='per_image', prompt_dropout=1.0),
    dict(prompt_dropout=0.5),
]


@pytest.mark.parametrize('settings', SETTINGS)
@pytest.mark.parametrize('counts', [(0, 0), (3, 0, 2), (20, 1)])
def test_loss_is_finite_and_reaches_every_parameter(build_tiny, make_batch, settings, counts):
    model = build_tiny(**{f'model.prompts.{name}': value for name, value in settings.items()})
    losses = model.loss(*make_batch(counts))
    total(losses).backward()
    assert all(value.isfinite().all() for value in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_one_box_per_class_gives_the_loss_of_a_single_instance(build_tiny, make_batch):
    """If a class has one box in the batch, all ways to sample give the same prompt."""
    inputs, samples = make_batch((2, 3))
    for sample, labels in zip(samples, ([0, 3], [1, 4, 5]), strict=True):
        sample.gt_instances.labels = torch.tensor(labels)

    def losses(**settings):
        model = build_tiny(**{f'model.prompts.{name}': value for name, value in settings.items()})
        # Leave out the denoising losses, whose noise depends on what was drawn before.
        return {name: value for name, value in model.loss(inputs, samples).items() if 'dn_' not in name}

    single = losses()
    for settings in SETTINGS[:3]:
        torch.testing.assert_close(losses(**settings), single)


def test_single_offered_prompt_gives_the_loss_of_its_class_alone(build_tiny, make_batch, monkeypatch):
    inputs, samples = make_batch((3,))
    samples[0].gt_instances.labels = torch.tensor([2, 6, 6])
    only_six = torch.tensor([[False, True]])
    monkeypatch.setattr('dinor1.models.prompts.draw.drop_prompts', lambda offered, probability: only_six)
    torch.manual_seed(1)
    dropped = build_tiny(**{'model.prompts.prompt_dropout': 1.0}).loss(inputs, samples)
    # The same image with the boxes of class 6 only. Its exemplar may be another box, so take twice the same box.
    draw, labels, _ = draw_prompts(samples, PromptsConfig(prompt_dropout=1.0))
    assert draw.offered.tolist() == [[False, True]]
    assert [keep.tolist() for keep in offered_boxes(labels, draw)] == [[False, True, True]]
    alone = samples[0].clone()
    alone.gt_instances = samples[0].gt_instances[1:]
    chosen = []
    for seed in range(20):
        torch.manual_seed(seed)
        model = build_tiny()
        losses = model.loss(inputs, [alone])
        chosen.append(losses['enc_loss_cls'].item())
    assert min(abs(value - dropped['enc_loss_cls'].item()) for value in chosen) < 1e-5


def test_prompts_config_rejects_settings_that_do_not_fit():
    with pytest.raises(InputError, match=r"prompt_sampling must be 'single_instance' or .*, got 'mean'"):
        PromptsConfig(prompt_sampling='mean')
    with pytest.raises(InputError, match=r'prompt_dropout must be in \[0, 1\], got 2'):
        PromptsConfig(prompt_dropout=2)
    with pytest.raises(InputError, match="exclude_self needs model.prompts.prompt_sampling='class_prototype'"):
        PromptsConfig(exclude_self=True)
    with pytest.raises(InputError, match='refiner refines the same prompts for all images'):
        PromptsConfig(prompt_sampling='per_image', refiner=dict(type='CategoryGraphPrompts'))


# All settings off ------------------------------------------------------------------------------------------

BASELINE = dict(
    encoder=dict(type='VisualPromptEncoder', source='neck'),
    prompt_sampling='single_instance',
    exclude_self=False,
    prompt_dropout=0.0,
    prompt_gather='device',
    prompt_mode_schedule='visual',
    class_embeddings=None,
)


@pytest.mark.parametrize('aligned', [False, True])
def test_baseline_values_are_the_network_without_the_switches(build_tiny, make_batch, aligned):
    """Parameter names, losses and gradients are bitwise identical."""
    text = dict(language_model=dict(type='WordHashModel'), alignment=dict(type='LanguageAlignment'))
    inputs, samples = make_batch((3, 0, 2))
    for sample in samples:
        sample.set_metainfo(dict(text=tuple('abcdefgh')))
    results = []
    for settings in ({}, BASELINE):
        settings = settings | (text if aligned else {})
        model = build_tiny(**{f'model.prompts.{name}': value for name, value in settings.items()})
        model.prompt_memory, model.rank_gather, model.prompt_mode = None, None, 'visual'
        torch.manual_seed(1)
        losses = model.loss(inputs, samples)
        total(losses).backward()
        results.append((losses, {name: parameter.grad for name, parameter in model.named_parameters()}))
    for absent, present in zip(*results, strict=True):
        assert list(absent) == list(present)
        for name, value in absent.items():
            assert (value is None and present[name] is None) or torch.equal(value, present[name]), name
    # Every box has the embedding of today's encoder.
    assert not [name for name in results[1][1] if 'aggregator' in name or 'exemplar' in name]


def test_prompts_config_rejects_world_and_refiner_settings_that_do_not_fit():
    with pytest.raises(InputError, match="needs model.prompts.prompt_sampling='class_prototype'"):
        PromptsConfig(prompt_gather='world')
    with pytest.raises(InputError, match=r"prompt_gather must be 'device' or 'world', got 'all'"):
        PromptsConfig(prompt_gather='all')
