"""Properties of the detector: degenerate batches, padding, permutations, prompts."""

import copy

import pytest
import torch

from dinor1.models import GRQOSettings
from dinor1.models.prompts import positive_maps, sample_prompts
from dinor1.structures import PromptSet
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint


def total(losses):
    return sum(value.sum() for name, value in losses.items() if 'loss' in name)


@pytest.mark.parametrize('counts', [(0, 0), (0, 2), (1,), (3, 2), (20, 1)])
@pytest.mark.parametrize('grqo', [None, GRQOSettings()])
def test_any_batch_gives_finite_losses_and_reaches_every_parameter(build_tiny, make_batch, counts, grqo):
    model = build_tiny()
    model.set_grqo(grqo)
    if grqo is not None:
        model.reference = copy.deepcopy(model).eval().objectness
    inputs, samples = make_batch(counts)
    losses = model.loss(inputs, samples)
    assert all(value.isfinite().all() for value in losses.values())
    total(losses).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_without_ground_truth_box_losses_are_zero_and_class_losses_are_not(build_tiny, make_batch):
    losses = build_tiny().loss(*make_batch((0, 0)))
    for name, value in losses.items():
        if 'bbox' in name or 'iou' in name or 'dn_' in name:
            assert value == 0, name
        else:
            assert value > 0, name


def test_one_class_in_the_whole_batch(build_tiny, make_batch):
    inputs, samples = make_batch((2, 1))
    for sample in samples:
        sample.gt_instances.labels.fill_(3)
    assert all(v.isfinite().all() for v in build_tiny().loss(inputs, samples).values())


def test_more_classes_than_256(build_tiny, make_batch):
    inputs, samples = make_batch((150, 150), num_classes=1)
    for i, sample in enumerate(samples):
        sample.gt_instances.labels = torch.arange(150) + 150 * i
    model = build_tiny()
    assert model.dn_query_generator.num_classes == 8
    assert all(v.isfinite().all() for v in model.loss(inputs, samples).values())


def test_fewer_tokens_than_queries(build_tiny, make_batch):
    """A 64 pixel image has 64 + 16 + 4 tokens; 100 queries cannot all be selected."""
    model = build_tiny(**{'model.num_queries': 100})
    model.set_grqo(GRQOSettings(beta=0.0))
    assert all(v.isfinite().all() for v in model.loss(*make_batch((2, 1))).values())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(build_tiny, make_batch, dtype):
    model = build_tiny()
    model.set_grqo(GRQOSettings())
    model.reference = copy.deepcopy(model).eval().objectness
    with torch.autocast('cpu', dtype):
        losses = model.loss(*make_batch((3, 0)))
    assert all(v.isfinite().all() for v in losses.values())
    total(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('num_layers', [1, 3])
@torch.no_grad()
def test_objectness_of_some_tokens_is_that_of_a_whole_pass(build_tiny, make_batch, num_layers):
    model = livened(build_tiny(**{'model.encoder.num_layers': num_layers}).double())
    # Other sizes give the second image padding, and boxes that were not drawn are not encoded here.
    inputs, samples = make_batch((3, 4))
    samples[1].set_metainfo(dict(img_shape=(48, 40)))
    draw = sample_prompts([sample.gt_instances.labels for sample in samples])
    features = model.encode_image(inputs.double(), samples)
    prompts, _ = model.encode_drawn(features, samples, draw, every_box=True)
    memory, memory_prompts = model.encoder(**features, prompts=prompts)
    whole = model.token_logits(memory, memory_prompts, prompts, features)[0].amax(-1)
    tokens = torch.stack(
        [torch.randperm(whole.shape[1], generator=torch.Generator().manual_seed(i))[:7] for i in (0, 1)]
    )
    some = model.objectness(tokens, inputs.double(), samples, draw)
    torch.testing.assert_close(some, whole.gather(1, tokens), atol=1e-12, rtol=1e-12)
    assert some.std() > 1e-3


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_the_reference_alone_in_half_precision(build_tiny, make_batch, dtype):
    model = build_tiny()
    model.set_grqo(GRQOSettings())
    model.reference = copy.deepcopy(model).eval().objectness
    inputs, samples = make_batch((3, 2))
    results = []
    for model.reference_dtype in (None, dtype):
        torch.manual_seed(0)
        results.append(model.loss(inputs, copy.deepcopy(samples)))
    whole, half = results
    assert all(torch.equal(whole[name], half[name]) for name in whole if 'grqo' not in name)
    # The student uses batch statistics and the reference does not: the KL is not zero, and changes with the rounding of
    # a half, 8 bits or 11.
    assert half['grqo_kl'] != whole['grqo_kl']
    torch.testing.assert_close(half['grqo_kl'], whole['grqo_kl'], atol=0, rtol=0.05)


def prompt_set(num=4, width=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return PromptSet.from_classes(torch.randn(num, width, generator=generator), [f'c{i}' for i in range(num)])


def permuted(prompts, order):
    return PromptSet.from_classes(prompts.embeddings[order], [prompts.names[i] for i in order])


def livened(model):
    """Away from the initial values, at which prompts hardly reach the image features."""
    for name, parameter in model.named_parameters():
        if name.endswith(('gamma_v', 'gamma_l')):
            parameter.data.fill_(0.3)
        if 'reg_branches' in name:
            parameter.data.normal_(std=0.05)
    return model.eval()


@torch.no_grad()
def test_permuting_the_classes_permutes_the_predictions(build_tiny, make_batch):
    model = livened(build_tiny().double())
    inputs, samples = make_batch((1, 1))
    prompts, order = prompt_set().to(torch.float64), [2, 0, 3, 1]
    for sample in samples:
        sample.prompts = prompts
    logits, boxes = model._forward(inputs.double(), samples)
    for sample in samples:
        sample.prompts = permuted(prompts, order)
    again, boxes_again = model._forward(inputs.double(), samples)
    # float64; only the order of sums over prompts differs
    torch.testing.assert_close(again, logits[..., order], atol=1e-10, rtol=0)
    torch.testing.assert_close(boxes_again, boxes, atol=1e-10, rtol=0)


@torch.no_grad()
def test_padding_prompts_changes_nothing(build_tiny, make_batch):
    """The image with fewer prompts is padded to the other's number."""
    model = livened(build_tiny().double())
    inputs, samples = make_batch((1, 1))
    samples[0].prompts, samples[1].prompts = prompt_set(2).to(torch.float64), prompt_set(5).to(torch.float64)
    together, _ = model._forward(inputs.double(), samples)
    alone, _ = model._forward(inputs[:1].double(), samples[:1])
    torch.testing.assert_close(together[:, :1, :, :2], alone, atol=1e-10, rtol=0)
    assert together[:, 0, :, 2:].isinf().all()


@torch.no_grad()
def test_padding_the_image_changes_only_what_convolutions_carry(build_tiny, make_batch):
    """Prompt embeddings of a box do not see the other images of the batch."""
    model = livened(build_tiny().double())
    inputs, samples = make_batch((2, 3))
    inputs = inputs.double()
    features = model.encode_image(inputs, samples)
    boxes = [sample.gt_instances.bboxes.double() for sample in samples]
    together = model.encode_boxes(features, boxes, samples)
    alone = model.encode_boxes(model.encode_image(inputs[:1], samples[:1]), boxes[:1], samples[:1])
    torch.testing.assert_close(together[:2], alone, atol=1e-10, rtol=0)


@torch.no_grad()
def test_negative_prompts_take_part_and_are_not_reported(build_tiny, make_batch):
    model = livened(build_tiny())
    inputs, samples = make_batch((1,))
    prompts = prompt_set(3)
    samples[0].prompts = PromptSet.from_classes(
        prompts.embeddings, prompts.names, negative=torch.tensor([False, True, False])
    )
    found = model.predict(inputs, samples)[0].pred_instances
    assert set(found.labels.tolist()) <= {0, 2}
    assert len(found) == 10
    samples[0].prompts = PromptSet.from_classes(prompts.embeddings[[0, 2]], ['c0', 'c2'])
    without = model.predict(inputs, samples)[0].pred_instances
    assert not torch.equal(found.scores, without.scores)


@torch.no_grad()
def test_interactive_prompts_are_the_means_of_their_boxes(build_tiny, make_batch):
    model = livened(build_tiny())
    inputs, samples = make_batch((3, 2))
    for sample in samples:
        sample.prompt_instances = sample.gt_instances
        sample.gt_instances.labels = torch.arange(len(sample.gt_instances)) % 2
        sample.prompt_names = ['a', 'b', 'c']
    first = [s.pred_instances for s in model.predict(inputs, copy.deepcopy(samples))]
    features = model.encode_image(inputs, samples)
    embeddings = model.encode_boxes(features, [s.gt_instances.bboxes for s in samples], samples)
    for sample, rows in zip(samples, embeddings.split([3, 2]), strict=True):
        del sample.prompt_instances
        sample.prompts = PromptSet.from_exemplars(rows, sample.gt_instances.labels, ['a', 'b', 'c'])
    for mine, other in zip(first, model.predict(inputs, samples), strict=True):
        torch.testing.assert_close(mine.scores, other.pred_instances.scores)
        assert set(mine.label_names) <= {'a', 'b'}


def test_an_image_without_prompts_is_an_error(build_tiny, make_batch):
    inputs, samples = make_batch((1,))
    with pytest.raises(InputError, match='no prompts'):
        build_tiny().eval().predict(inputs, samples)


def test_text_needs_a_language_model(build_tiny, make_batch):
    inputs, samples = make_batch((1,))
    samples[0].text = ['cat']
    with pytest.raises(InputError, match='no language model'):
        build_tiny().eval().predict(inputs, samples)
    with pytest.raises(InputError, match='alignment'):
        build_tiny(**{'model.alignment': dict()})


def test_sampling_draws_one_instance_per_class_evenly():
    labels = [torch.tensor([5, 2, 5]), torch.tensor([], dtype=torch.long), torch.tensor([5])]
    torch.manual_seed(0)
    counts = {}
    for _ in range(600):
        draw = sample_prompts(labels)
        assert draw.labels.tolist() == [2, 5]
        assert labels[draw.image[0]][draw.box[0]] == 2
        assert labels[draw.image[1]][draw.box[1]] == 5
        key = (int(draw.image[1]), int(draw.box[1]))
        counts[key] = counts.get(key, 0) + 1
    # three instances of class 5, each 200 times of 600 but for chance: 5 standard deviations are 58
    assert set(counts) == {(0, 0), (0, 2), (2, 0)}
    assert all(abs(n - 200) < 58 for n in counts.values())
    assert torch.equal(positive_maps(labels, draw)[0], torch.tensor([[0.0, 1], [1, 0], [0, 1]]))


def test_drawn_prompts_are_the_embeddings_of_their_boxes(build_tiny, make_batch):
    model = build_tiny().eval()
    inputs, samples = make_batch((3, 0, 2))
    draw = sample_prompts([s.gt_instances.labels for s in samples])
    features = model.encode_image(inputs, samples)
    prompts, _ = model.encode_drawn(features, samples, draw)
    for k, (image, box) in enumerate(zip(draw.image.tolist(), draw.box.tolist(), strict=True)):
        boxes = [s.gt_instances.bboxes[:0] for s in samples]
        boxes[image] = samples[image].gt_instances.bboxes[box : box + 1]
        torch.testing.assert_close(prompts.embeddings[0, k], model.encode_boxes(features, boxes, samples)[0])


def test_fingerprint_sees_one_bit_of_what_makes_prompts(build_tiny):
    model = build_tiny()
    before = fingerprint(model)
    assert before == fingerprint(build_tiny())
    assert len(before) == 64
    with torch.no_grad():
        model.decoder.norm.bias[0] += 1
    assert fingerprint(model) == before
    with torch.no_grad():
        model.prompt_encoder.norms[0].bias[0] += 1e-7
    assert fingerprint(model) != before


@torch.no_grad()
def test_an_absent_class_moves_boxes_through_fusion_alone(build_tiny, make_batch):
    """With all 84 tokens selected and fusion closed, one prompt more changes no box."""
    model = livened(build_tiny(**{'model.num_queries': 84}))
    inputs, samples = make_batch((1,))
    four = PromptSet.from_classes(torch.cat([prompt_set(3).embeddings, torch.randn(1, 32)]), 'abcd')

    def distance():
        boxes = []
        for prompts in (prompt_set(3), four):
            samples[0].prompts = prompts
            boxes.append(model._forward(inputs, samples)[1][-1, 0])
        return torch.cdist(*boxes, p=1).amin(-1).max()

    assert distance() > 1e-3
    for name, parameter in model.named_parameters():
        if 'gamma_v' in name or 'cross_attn_text.attn.out_proj' in name:
            parameter.zero_()
    # The query content that a token gets is the learned embedding of its rank, which the new prompt changes.
    model.query_embedding.weight[:] = model.query_embedding.weight[:1]
    assert distance() < 1e-4


@torch.no_grad()
def test_a_vocabulary_in_parts_is_found_as_in_one_pass_without_fusion(build_tiny, make_batch):
    """Fusion closed, all 84 tokens selected, equal query contents: the parts change nothing. Image 1 needs one part."""
    model = livened(build_tiny(**{'model.num_queries': 84, 'model.test_cfg.max_per_img': 588})).double()
    for name, parameter in model.named_parameters():
        if 'gamma_v' in name or 'cross_attn_text.attn.out_proj' in name:
            parameter.zero_()
    model.query_embedding.weight[:] = model.query_embedding.weight[:1]
    inputs, samples = make_batch((1, 1))
    samples[0].prompts, samples[1].prompts = prompt_set(7).to(torch.float64), prompt_set(2).to(torch.float64)

    def found(chunked_size):
        model.test_cfg['chunked_size'] = chunked_size
        return [s.pred_instances for s in model.predict(inputs.double(), copy.deepcopy(samples))]

    whole = found(-1)
    assert len(whole[0]) == 84 * 7
    assert len(whole[1]) == 84 * 2
    for size in (1, 3, 7):
        for ours, theirs in zip(found(size), whole, strict=True):
            # float64; scores and boxes are made in float32
            torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-6, rtol=0)
            torch.testing.assert_close(ours.bboxes, theirs.bboxes, atol=1e-4, rtol=0)
            assert torch.equal(ours.labels, theirs.labels)
            assert ours.label_names == theirs.label_names


@torch.no_grad()
def test_a_vocabulary_in_parts_keeps_the_best_of_all_parts(build_tiny, make_batch):
    model = livened(build_tiny(**{'model.test_cfg.chunked_size': 2}))
    inputs, samples = make_batch((1,))
    prompts = prompt_set(5)
    samples[0].prompts = prompts
    found = model.predict(inputs, samples)[0].pred_instances
    scores = []
    for part in prompts.split(2):
        samples[0].prompts = part
        scores.append(model.predict(inputs, samples)[0].pred_instances.scores)
    assert torch.equal(found.scores, torch.cat(scores).sort(descending=True).values[:10])


@torch.no_grad()
def test_an_image_that_is_asked_for_nothing_gives_nothing(build_tiny, make_batch):
    model = livened(build_tiny())
    inputs, samples = make_batch((0, 2))
    for sample in samples:
        sample.prompt_instances, sample.prompt_names = sample.gt_instances, [f'c{i}' for i in range(8)]
    empty, other = (s.pred_instances for s in model.predict(inputs, copy.deepcopy(samples)))
    assert len(empty) == 0
    assert empty.bboxes.shape == (0, 4)
    assert empty.label_names == []
    alone = model.predict(inputs[1:], samples[1:])[0].pred_instances
    # Another batch size makes other blocks of the same sums.
    torch.testing.assert_close(other.scores, alone.scores, atol=1e-5, rtol=0)
