"""The memory of earlier prompts, alone and in the detector."""

import pytest
import torch
from mmdet.structures import DetDataSample

from dinor1.models.prompts import (
    PromptMemory,
    RememberedPrompt,
    draw_prompts,
    image_keys,
    positive_maps,
    remembered_prompts,
)
from dinor1.utils.errors import InputError

NAMES = ('ant', 'bee', 'cat', 'dog', 'eel', 'fox', 'gnu', 'hen')


def prompt(name, image, *values):
    return RememberedPrompt(name, image, torch.tensor(values, dtype=torch.float32))


def test_recall_of_an_empty_memory_is_none():
    assert PromptMemory().recall([1, 2]) is None


def test_memory_keeps_the_latest_prompts_of_each_class():
    memory = PromptMemory(length=2)
    memory.store([prompt('cat', 1, 1), prompt('dog', 1, 9), prompt('cat', 2, 2)])
    memory.store([prompt('cat', 3, 4)])
    recalled = memory.recall([7])
    assert recalled.names == ['cat', 'dog']
    assert recalled.embeddings.tolist() == [[[3], [9]]]
    assert recalled.available.tolist() == [[True, True]]


def test_image_does_not_recall_its_own_prompts():
    memory = PromptMemory()
    memory.store([prompt('cat', 1, 1), prompt('cat', 2, 5), prompt('dog', 2, 7)])
    recalled = memory.recall([1, 2])
    assert recalled.embeddings[..., 0].tolist() == [[5, 7], [1, 0]]
    assert recalled.available.tolist() == [[True, True], [True, False]]


def test_images_of_two_data_sets_with_one_id_have_different_keys():
    samples = [DetDataSample(metainfo=dict(img_id=1, img_path=path)) for path in ('a/1.jpg', 'b/1.jpg')]
    memory = PromptMemory()
    memory.store([prompt('cat', image_keys(samples)[0], 1)])
    assert memory.recall(image_keys(samples)).available.tolist() == [[False], [True]]


def test_recalled_classes_are_drawn_with_equal_probability():
    memory = PromptMemory(classes_per_step=3)
    memory.store([prompt(name, 1, 0) for name in NAMES])
    counts = dict.fromkeys(NAMES, 0)
    for _ in range(1600):
        names = memory.recall([0]).names
        assert len(names) == 3
        for name in names:
            counts[name] += 1
    # Standard deviation of the frequency 3 / 8: 0.012.
    assert all(abs(count / 1600 - 3 / 8) < 0.05 for count in counts.values())


def test_restored_memory_recalls_the_same():
    memory, restored = PromptMemory(length=2), PromptMemory(length=2)
    memory.store([prompt(name, image, image, 2) for image in range(3) for name in ('cat', 'dog')])
    restored.load_state_dict(memory.state_dict())
    for one in (memory, restored):
        one.store([prompt('cat', 9, 0.5, 0)])
    expected, found = memory.recall([2, 9]), restored.recall([2, 9])
    assert found.names == expected.names
    assert torch.equal(found.embeddings, expected.embeddings)
    assert torch.equal(found.available, expected.available)


def test_remembered_prompts_are_means_per_image_and_class():
    instances = torch.tensor([[1.0], [3], [10], [20]], requires_grad=True)
    labels = [torch.tensor([2, 2, 0]), torch.tensor([2]), torch.tensor([], dtype=torch.long)]
    found = remembered_prompts(instances, labels, ['x', 'y', 'z'], NAMES)
    assert [(p.name, p.image, p.embedding.tolist()) for p in found] == [
        ('ant', 'x', [10]),
        ('cat', 'x', [2]),
        ('cat', 'y', [20]),
    ]
    assert not any(p.embedding.requires_grad for p in found)
    assert remembered_prompts(torch.ones(1, 1), [labels[2]], ['x'], NAMES) == []


def test_prompt_memory_rejects_numbers_out_of_range():
    with pytest.raises(InputError, match='at least 1, got 0 and 40'):
        PromptMemory(length=0)


# In the detector --------------------------------------------------------------------------------------------


@pytest.fixture
def batch(make_batch):
    """Two images with the classes cat, dog and dog."""
    inputs, samples = make_batch((2, 1))
    for sample, labels in zip(samples, ([2, 3], [3]), strict=True):
        sample.gt_instances.labels = torch.tensor(labels)
        sample.set_metainfo(dict(text=NAMES))
    return inputs, samples


def filled(model):
    memory = PromptMemory()
    width = model.embed_dims
    memory.store([RememberedPrompt(name, image, torch.randn(width)) for name, image in (('dog', 0), ('hen', 5))])
    memory.store([RememberedPrompt('owl', 6, torch.randn(width))])
    return memory


def test_remembered_class_is_a_further_prompt_of_the_batch(build_tiny, batch):
    model = build_tiny()
    draw, labels, _ = draw_prompts(batch[1], model.prompts_cfg, memory=filled(model))
    assert draw.names() == ['cat', 'dog', 'dog', 'hen', 'owl']
    assert draw.memory.shape == (2, 3, model.embed_dims)
    # Image 0 has shown the remembered dog itself.
    assert draw.offered.tolist() == [[True, True, False, True, True], [True] * 5]
    maps = positive_maps(labels, draw)
    assert maps[0].tolist() == [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0]]
    assert maps[1].tolist() == [[0, 1, 1, 0, 0]]


def test_remembered_prompt_is_offered_only_to_images_annotated_for_its_class(build_tiny, batch):
    model = build_tiny()
    batch[1][1].set_metainfo(dict(exhaustive_labels=[2, 7], annotated_labels=[2, 7]))
    draw, _, scope = draw_prompts(batch[1], model.prompts_cfg, memory=filled(model))
    assert draw.names() == ['cat', 'dog', 'dog', 'hen', 'owl']
    assert draw.offered[1].tolist() == [True, True, True, True, False]
    assert scope.exhaustive[1].tolist() == [True, False, False, True, False]


def test_model_records_the_prompts_of_an_iteration(build_tiny, batch):
    for settings in ({}, {'model.prompts.prompt_sampling': 'class_prototype'}):
        model = build_tiny(**settings)
        model.prompt_memory = PromptMemory()
        model.loss(*batch)
        found = {(p.name, p.image) for p in model.prompt_memory.pending}
        # A single instance of each class, or all images.
        assert {('cat', 0)} <= found <= {('cat', 0), ('dog', 0), ('dog', 1)}
        assert len(found) == (3 if settings else 2)


def test_losses_with_a_memory_are_finite_and_reach_every_parameter(build_tiny, batch):
    model = build_tiny()
    model.prompt_memory = filled(model)
    losses, output = model.loss_and_output(*batch)
    assert output.prompts.embeddings.shape[1] == 5
    sum(value.sum() for name, value in losses.items() if 'loss' in name).backward()
    assert all(value.isfinite().all() for value in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_memory_needs_class_names(build_tiny, make_batch):
    model = build_tiny()
    model.prompt_memory = filled(model)
    with pytest.raises(InputError, match='need class names; set return_classes=True'):
        model.loss(*make_batch((1,)))
