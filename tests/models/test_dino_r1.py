"""Properties of the detector: degenerate batches, padding, permutations, prompts."""

import copy

import pytest
import torch
from mmdet.models.detectors import DINO, DeformableDETR, GroundingDINO
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.detectors.base_detr import DetectionTransformer

from dinor1.models import GRQOLoss, ReferenceModel
from dinor1.models.prompts import drawn_prompts, positive_maps, sample_prompts
from dinor1.structures import BoxPrompts, PromptBatch, PromptSet
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint


def total(losses):
    return sum(value.sum() for name, value in losses.items() if 'loss' in name)


def reference_of(model, dtype=None):
    return ReferenceModel(copy.deepcopy(model).eval(), dtype)


@pytest.mark.parametrize('counts', [(0, 0), (0, 2), (1,), (3, 2), (20, 1)])
@pytest.mark.parametrize('loss_grqo', [None, dict(type='GRQOLoss')])
def test_loss_of_any_batch_is_finite_and_reaches_every_parameter(build_tiny, make_batch, counts, loss_grqo):
    model = build_tiny(**{'model.bbox_head.loss_grqo': loss_grqo})
    if loss_grqo is not None:
        model.reference = reference_of(model)
    inputs, samples = make_batch(counts)
    losses = model.loss(inputs, samples)
    assert all(value.isfinite().all() for value in losses.values())
    total(losses).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_loss_without_ground_truth_has_class_losses_only(build_tiny, make_batch):
    losses = build_tiny().loss(*make_batch((0, 0)))
    for name, value in losses.items():
        if 'bbox' in name or 'iou' in name or 'dn_' in name:
            assert value == 0, name
        else:
            assert value > 0, name


def test_loss_with_one_class_is_finite(build_tiny, make_batch):
    inputs, samples = make_batch((2, 1))
    for sample in samples:
        sample.gt_instances.labels.fill_(3)
    assert all(v.isfinite().all() for v in build_tiny().loss(inputs, samples).values())


def test_loss_with_more_than_256_classes_is_finite(build_tiny, make_batch):
    inputs, samples = make_batch((150, 150), num_classes=1)
    for i, sample in enumerate(samples):
        sample.gt_instances.labels = torch.arange(150) + 150 * i
    model = build_tiny()
    assert model.dn_query_generator.num_classes == 8
    assert all(v.isfinite().all() for v in model.loss(inputs, samples).values())


def test_loss_with_fewer_tokens_than_queries_is_finite(build_tiny, make_batch):
    """An image with a side of 64 pixels has 64 + 16 + 4 tokens, fewer than 100 queries."""
    model = build_tiny(**{'model.num_queries': 100})
    model.bbox_head.loss_grqo = GRQOLoss(beta=0.0)
    assert all(v.isfinite().all() for v in model.loss(*make_batch((2, 1))).values())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_loss_under_autocast_is_finite(build_tiny, make_batch, dtype):
    model = build_tiny(**{'model.bbox_head.loss_grqo': dict(type='GRQOLoss')})
    model.reference = reference_of(model)
    with torch.autocast('cpu', dtype):
        losses = model.loss(*make_batch((3, 0)))
    assert all(v.isfinite().all() for v in losses.values())
    total(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('num_layers', [1, 3])
@torch.no_grad()
def test_objectness_of_some_tokens_equals_a_whole_pass(build_tiny, make_batch, num_layers):
    model = livened(build_tiny(**{'model.encoder.num_layers': num_layers}).double())
    # The second image is smaller, so that it has padding.
    inputs, samples = make_batch((3, 4))
    samples[1].set_metainfo(dict(img_shape=(48, 40)))
    draw = sample_prompts([sample.gt_instances.labels for sample in samples])
    features = model.encode_image(inputs.double(), samples)
    embeddings, _ = drawn_prompts(model.prompt_encoder, features, *boxes_and_shapes(samples), draw, every_box=True)
    memory, prompts, *_ = model.encoder(features, PromptBatch.shared(embeddings, 2))
    whole = model.token_scores(memory, features, prompts).objectness
    tokens = torch.stack(
        [torch.randperm(whole.shape[1], generator=torch.Generator().manual_seed(i))[:7] for i in (0, 1)]
    )
    some = model.objectness(tokens, inputs.double(), samples, draw)
    torch.testing.assert_close(some, whole.gather(1, tokens), atol=1e-12, rtol=1e-12)
    assert some.std() > 1e-3


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_reference_in_half_precision_changes_only_the_kl(build_tiny, make_batch, dtype):
    model = build_tiny(**{'model.bbox_head.loss_grqo': dict(type='GRQOLoss')})
    inputs, samples = make_batch((3, 2))
    references = [reference_of(model), reference_of(model, dtype)]
    results = []
    for model.reference in references:
        torch.manual_seed(0)
        results.append(model.loss(inputs, copy.deepcopy(samples)))
    whole, half = results
    assert all(torch.equal(whole[name], half[name]) for name in whole if 'grqo' not in name)
    # The student uses batch statistics and the reference does not, so that the KL is not zero, and changes with the
    # rounding of half precision to 8 or 11 bits.
    assert half['grqo_kl'] != whole['grqo_kl']
    torch.testing.assert_close(half['grqo_kl'], whole['grqo_kl'], atol=0, rtol=0.05)


def boxes_and_shapes(samples):
    return [sample.gt_instances.bboxes for sample in samples], [sample.img_shape for sample in samples]


def prompt_set(num=4, width=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return PromptSet.from_classes(torch.randn(num, width, generator=generator), [f'c{i}' for i in range(num)])


def permuted(prompts, order):
    return PromptSet.from_classes(prompts.embeddings[order], [prompts.names[i] for i in order])


def livened(model):
    """Change the initial values of ``model``, at which prompts have almost no effect on image features."""
    for name, parameter in model.named_parameters():
        if name.endswith(('gamma_v', 'gamma_l')):
            parameter.data.fill_(0.3)
        if 'reg_branches' in name:
            parameter.data.normal_(std=0.05)
    return model.eval()


@torch.no_grad()
def test_predictions_follow_a_permutation_of_the_classes(build_tiny, make_batch):
    model = livened(build_tiny().double())
    inputs, samples = make_batch((1, 1))
    prompts, order = prompt_set().to(torch.float64), [2, 0, 3, 1]
    logits, boxes = model(inputs.double(), samples, prompts=prompts)
    again, boxes_again = model(inputs.double(), samples, prompts=permuted(prompts, order))
    # float64: only the order of sums over prompts differs.
    torch.testing.assert_close(again, logits[..., order], atol=1e-10, rtol=0)
    torch.testing.assert_close(boxes_again, boxes, atol=1e-10, rtol=0)


@torch.no_grad()
def test_predictions_do_not_depend_on_padded_prompts(build_tiny, make_batch):
    """The prompts of the image with fewer prompts are padded to the number of the other image."""
    model = livened(build_tiny().double())
    inputs, samples = make_batch((1, 1))
    few, many = prompt_set(2).to(torch.float64), prompt_set(5).to(torch.float64)
    together, _ = model(inputs.double(), samples, prompts=[few, many])
    alone, _ = model(inputs[:1].double(), samples[:1], prompts=few)
    torch.testing.assert_close(together[:, :1, :, :2], alone, atol=1e-10, rtol=0)
    assert together[:, 0, :, 2:].isinf().all()


@torch.no_grad()
def test_encode_boxes_does_not_depend_on_other_images(build_tiny, make_batch):
    """The prompt embedding of a box does not depend on the other images of the batch."""
    model = livened(build_tiny().double())
    inputs, samples = make_batch((2, 3))
    inputs = inputs.double()
    features = model.encode_image(inputs, samples)
    boxes, shapes = boxes_and_shapes(samples)
    boxes = [box.double() for box in boxes]
    together = model.encode_boxes(features, boxes, shapes)
    alone = model.encode_boxes(model.encode_image(inputs[:1], samples[:1]), boxes[:1], shapes[:1])
    torch.testing.assert_close(together[:2], alone, atol=1e-10, rtol=0)


@torch.no_grad()
def test_negative_prompts_are_searched_for_and_not_reported(build_tiny, make_batch):
    model = livened(build_tiny())
    inputs, samples = make_batch((1,))
    prompts = prompt_set(3)
    hidden = PromptSet.from_classes(prompts.embeddings, prompts.names, negative=torch.tensor([False, True, False]))
    found = model.predict(inputs, samples, hidden)[0].pred_instances
    assert set(found.labels.tolist()) <= {0, 2}
    assert len(found) == 10
    fewer = PromptSet.from_classes(prompts.embeddings[[0, 2]], ['c0', 'c2'])
    without = model.predict(inputs, samples, fewer)[0].pred_instances
    assert not torch.equal(found.scores, without.scores)


def box_prompts(samples, names):
    """The ground truth of each image as its prompts."""
    return [BoxPrompts(s.gt_instances.bboxes, s.gt_instances.labels, tuple(names)) for s in samples]


@torch.no_grad()
def test_box_prompts_equal_the_means_of_their_boxes(build_tiny, make_batch):
    model = livened(build_tiny(**{'model.test_cfg.max_per_img': 100}))  # all candidates
    inputs, samples = make_batch((3, 2))
    for sample in samples:
        sample.gt_instances.labels = torch.arange(len(sample.gt_instances)) % 2
    names = ('a', 'b', 'c')
    boxes = box_prompts(samples, names)
    first = [s.pred_instances for s in model.predict(inputs, copy.deepcopy(samples), boxes)]
    features = model.encode_image(inputs, samples)
    sets = []
    for i, item in enumerate(boxes):
        embeddings = model.encode_boxes(features.image(i), [item.boxes], [samples[i].img_shape])
        sets.append(PromptSet.from_exemplars(embeddings, item.labels, names))
    for mine, other in zip(first, model.predict(inputs, samples, sets), strict=True):
        assert torch.equal(mine.scores, other.pred_instances.scores)
        assert torch.equal(mine.bboxes, other.pred_instances.bboxes)
        assert set(mine.label_names) == {'a', 'b'}


@torch.no_grad()
def test_predict_accepts_boxes_and_prompt_sets_in_one_batch(build_tiny, make_batch):
    model = livened(build_tiny().double())
    inputs, samples = make_batch((3, 2))
    inputs, prompts = inputs.double(), [box_prompts(samples, 'abcdefgh')[0], prompt_set().to(torch.float64)]
    together = [s.pred_instances for s in model.predict(inputs, copy.deepcopy(samples), prompts)]
    for i in (0, 1):
        (alone,) = model.predict(inputs[i : i + 1], samples[i : i + 1], prompts[i : i + 1])
        # float64: only sums over another batch size differ.
        torch.testing.assert_close(together[i].scores, alone.pred_instances.scores, atol=1e-6, rtol=0)
        assert together[i].label_names == alone.pred_instances.label_names


@pytest.mark.parametrize('mode', ['tensor', 'predict', 'predict_and_output'])
def test_forward_without_prompts_is_rejected(build_tiny, make_batch, mode):
    with pytest.raises(InputError, match='^DINOR1: no prompts; .*PromptedValLoop') as caught:
        build_tiny().eval()(*make_batch((1,)), mode=mode)
    assert '\n' not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@torch.no_grad()
def test_predict_moves_prompts_to_the_gpu(build_tiny, make_batch):
    """Prompts of banks and of annotation files are on the CPU."""
    model = livened(build_tiny())
    inputs, samples = make_batch((2, 1))
    prompts = [prompt_set(8), box_prompts(samples, 'abcdefgh')[1]]
    expected = [s.pred_instances.scores for s in model.predict(inputs, copy.deepcopy(samples), prompts)]
    found = model.cuda().predict(inputs.cuda(), samples, prompts)
    for mine, scores in zip(found, expected, strict=True):
        # TF32 convolutions keep 10 bits of the mantissa.
        torch.testing.assert_close(mine.pred_instances.scores.cpu(), scores, atol=5e-3, rtol=0)


def test_predict_rejects_images_without_prompts(build_tiny, make_batch):
    with pytest.raises(ValueError, match='prompts for 2 images, got 1'):
        build_tiny().eval().predict(*make_batch((1, 1)), [prompt_set()])


def test_text_prompts_without_a_language_model_are_rejected(build_tiny):
    with pytest.raises(InputError, match='no language model'):
        build_tiny().text_prompt_set(['cat'])
    with pytest.raises(InputError, match='alignment'):
        build_tiny(**{'model.prompts.alignment': dict()})


def test_dino_r1_inherits_no_method_of_grounding_dino(build_tiny):
    model = build_tiny()
    assert isinstance(model, BaseDetector)
    assert not isinstance(model, DetectionTransformer)
    theirs = {name for name in vars(GroundingDINO) | vars(DINO) | vars(DeformableDETR) if not name.startswith('_')}
    assert not {name for name in theirs & set(dir(model)) if not hasattr(BaseDetector, name)}
    for name in ('get_tokens_and_prompts', 'get_positive_map', 'pre_transformer', 'pre_decoder', 'forward_decoder'):
        assert not hasattr(model, name)
    for name in ('loss_by_feat', 'predict_by_feat', 'get_targets', 'forward_logits'):
        assert not hasattr(model.bbox_head, name)


def test_sample_prompts_draws_one_instance_per_class_uniformly():
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
    # Each of three instances of class 5 is expected 200 times in 600 draws; 5 standard deviations are 58.
    assert set(counts) == {(0, 0), (0, 2), (2, 0)}
    assert all(abs(n - 200) < 58 for n in counts.values())
    assert torch.equal(positive_maps(labels, draw)[0], torch.tensor([[0.0, 1], [1, 0], [0, 1]]))


def test_drawn_prompts_equal_the_embeddings_of_their_boxes(build_tiny, make_batch):
    model = build_tiny().eval()
    inputs, samples = make_batch((3, 0, 2))
    draw = sample_prompts([s.gt_instances.labels for s in samples])
    features = model.encode_image(inputs, samples)
    every_box, shapes = boxes_and_shapes(samples)
    embeddings, instances = drawn_prompts(model.prompt_encoder, features, every_box, shapes, draw)
    assert len(instances) == len(embeddings) == len(draw.labels)
    for k, (image, box) in enumerate(zip(draw.image.tolist(), draw.box.tolist(), strict=True)):
        boxes = [b[:0] for b in every_box]
        boxes[image] = every_box[image][box : box + 1]
        torch.testing.assert_close(embeddings[k], model.encode_boxes(features, boxes, shapes)[0])
    # The same if all boxes are encoded.
    again, instances = drawn_prompts(model.prompt_encoder, features, every_box, shapes, draw, every_box=True)
    torch.testing.assert_close(again, embeddings)
    torch.testing.assert_close(instances, model.encode_boxes(features, every_box, shapes))


def test_fingerprint_depends_only_on_weights_that_encode_prompts(build_tiny):
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
def test_absent_class_changes_boxes_only_through_fusion(build_tiny, make_batch):
    """With all 84 tokens selected and without fusion, a further prompt changes no box."""
    model = livened(build_tiny(**{'model.num_queries': 84}))
    inputs, samples = make_batch((1,))
    four = PromptSet.from_classes(torch.cat([prompt_set(3).embeddings, torch.randn(1, 32)]), 'abcd')

    def distance():
        boxes = []
        for prompts in (prompt_set(3), four):
            boxes.append(model(inputs, samples, prompts=prompts)[1][-1, 0])
        return torch.cdist(*boxes, p=1).amin(-1).max()

    assert distance() > 1e-3
    for name, parameter in model.named_parameters():
        if 'gamma_v' in name or 'cross_attn_text.attn.out_proj' in name:
            parameter.zero_()
    # Make all query contents equal: a token gets the embedding of its rank, which the new prompt changes.
    model.query_embedding.weight[:] = model.query_embedding.weight[:1]
    assert distance() < 1e-4


@torch.no_grad()
def test_chunked_predict_equals_one_pass_without_fusion(build_tiny, make_batch):
    """Without fusion, with all 84 tokens selected and equal query contents. Image 1 has fewer parts than image 0."""
    model = livened(build_tiny(**{'model.num_queries': 84, 'model.test_cfg.max_per_img': 588})).double()
    for name, parameter in model.named_parameters():
        if 'gamma_v' in name or 'cross_attn_text.attn.out_proj' in name:
            parameter.zero_()
    model.query_embedding.weight[:] = model.query_embedding.weight[:1]
    inputs, samples = make_batch((1, 1))
    prompts = [prompt_set(7).to(torch.float64), prompt_set(2).to(torch.float64)]

    def found(chunked_size):
        model.test_cfg['chunked_size'] = chunked_size
        return [s.pred_instances for s in model.predict(inputs.double(), copy.deepcopy(samples), prompts)]

    whole = found(-1)
    assert len(whole[0]) == 84 * 7
    assert len(whole[1]) == 84 * 2
    for size in (1, 3, 7):
        for ours, theirs in zip(found(size), whole, strict=True):
            # The model is in float64, but scores and boxes are computed in float32.
            torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-6, rtol=0)
            torch.testing.assert_close(ours.bboxes, theirs.bboxes, atol=1e-4, rtol=0)
            assert torch.equal(ours.labels, theirs.labels)
            assert ours.label_names == theirs.label_names


@torch.no_grad()
def test_chunked_predict_keeps_the_best_of_all_parts(build_tiny, make_batch):
    model = livened(build_tiny(**{'model.test_cfg.chunked_size': 2}))
    inputs, samples = make_batch((1,))
    prompts = prompt_set(5)
    found = model.predict(inputs, samples, prompts)[0].pred_instances
    scores = [model.predict(inputs, samples, part)[0].pred_instances.scores for part in prompts.split(2)]
    assert torch.equal(found.scores, torch.cat(scores).sort(descending=True).values[:10])


@torch.no_grad()
def test_predict_without_boxes_on_an_image_is_empty(build_tiny, make_batch):
    model = livened(build_tiny())
    inputs, samples = make_batch((0, 2))
    prompts = box_prompts(samples, [f'c{i}' for i in range(8)])
    assert len(prompts[0].boxes) == 0
    empty, other = (s.pred_instances for s in model.predict(inputs, copy.deepcopy(samples), prompts))
    assert len(empty) == 0
    assert empty.bboxes.shape == (0, 4)
    assert empty.label_names == []
    alone = model.predict(inputs[1:], samples[1:], prompts[1:])[0].pred_instances
    # Another batch size changes the order of sums.
    torch.testing.assert_close(other.scores, alone.scores, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(('chunked_size', 'classes'), [(-1, [[0, 1, 2, 3, 4]]), (2, [[0, 1], [2, 3], [4]])])
def test_predict_and_output_returns_every_pass_with_its_prompts(build_tiny, make_batch, chunked_size, classes):
    model = livened(build_tiny(**{'model.test_cfg.chunked_size': chunked_size}))
    inputs, samples = make_batch((1, 2))
    found, passes = model(inputs, copy.deepcopy(samples), mode='predict_and_output', prompts=prompt_set(5))
    for mine, other in zip(found, model.predict(inputs, samples, prompt_set(5)), strict=True):
        assert torch.equal(mine.pred_instances.scores, other.pred_instances.scores)
    assert [[list(p.reported) for p in offered] for _, offered in passes] == [[c, c] for c in classes]
    features = model.encode_image(inputs, samples)
    for output, offered in passes:
        memory, prompts, *_ = model.encoder(features, PromptBatch.stack(offered))
        scores, selection = model.token_scores(memory, features, prompts), output.selection
        assert output.denoising is None
        assert torch.equal(prompts.embeddings, output.prompts.embeddings)
        # The selection has the best 12 tokens, in descending order.
        assert torch.equal(selection.objectness, scores.objectness.topk(12, dim=1).values)
        assert torch.equal(selection.objectness, scores.objectness.gather(1, selection.tokens))
        assert torch.equal(selection.objectness, selection.cls_logits.amax(-1))
        assert torch.equal(output.references[0], selection.boxes)
        assert ((selection.boxes >= 0) & (selection.boxes <= 1)).all()


def test_loss_and_output_returns_the_output_of_the_losses(build_tiny, make_batch):
    model, batch = build_tiny(), make_batch((2, 1))
    torch.manual_seed(0)
    losses, output = model.loss_and_output(*copy.deepcopy(batch))
    torch.manual_seed(0)
    again = model.loss(*batch)
    assert losses.keys() == again.keys()
    assert all(torch.equal(losses[name], again[name]) for name in losses)
    # Four groups with a positive and a negative query for each of at most two objects.
    assert output.denoising == (16, 4)
    assert output.hidden_states.shape == (2, 2, 16 + 12, 32)
    assert output.references.shape == (3, 2, 16 + 12, 4)
    gradient = torch.autograd.grad(total(losses), output.hidden_states)[0]
    assert gradient.abs().amax((1, 2, 3)).gt(0).all()


def test_predict_adds_only_detections_to_samples(build_tiny, make_batch):
    """Prompts are an argument, and are not stored in the data samples."""
    inputs, samples = make_batch((1,))
    before = set(samples[0].keys())
    build_tiny().eval().predict(inputs, samples, prompt_set())
    assert set(samples[0].keys()) - before == {'pred_instances'}


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'model.transformer.embed_dims': 34}, 'embed_dims a multiple of num_heads and of 4'),
        ({'model.transformer.num_heads': 3}, 'num_heads must be even'),
        ({'model.transformer.feedforward_channels': 0}, 'all sizes must be at least 1'),
        ({'model.num_queries': 0}, 'num_queries must be at least 1'),
        ({'model.transformer.width': 32}, "model.transformer: unknown key 'width'"),
        (
            {'model.prompts.refiner': dict(_delete_=True, graph='x.json')},
            'model.prompts.refiner is a dict without a ty',
        ),
    ],
)
def test_dino_r1_rejects_invalid_settings(build_tiny, overrides, message):
    with pytest.raises(InputError, match=message) as error:
        build_tiny(**overrides)
    assert '\n' not in str(error.value)
