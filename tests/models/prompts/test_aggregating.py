"""The prompt encoder that aggregates boxes, compared with the release, alone and in the detector."""

import json

import numpy as np
import pytest
import torch

from dinor1.models.prompts import AggregatingPromptEncoder, draw_prompts, drawn_prompts, pair_exemplars
from dinor1.models.transformer import PromptedEncoder, TransformerDims
from dinor1.registry import MODELS
from dinor1.structures import BoxPrompts, ImageFeatures
from dinor1.utils.distributed import rank_gather
from dinor1.utils.errors import InputError

SIZES = dict(embed_dims=16, num_heads=4, feedforward_channels=24, num_points=2, num_feature_levels=2)
SHAPES = ((6, 5), (3, 3))


def encoder_of(aggregator, **options):
    torch.manual_seed(0)
    encoder = AggregatingPromptEncoder(TransformerDims(**SIZES), aggregator, **options)
    encoder.init_weights()
    return encoder.double()


def features_of(feat, padding_mask, shapes, valid_ratios):
    starts = [0, *np.cumsum([height * width for height, width in shapes])]
    return ImageFeatures(
        feat, torch.zeros_like(feat), padding_mask, shapes, tuple(int(start) for start in starts[:-1]), valid_ratios
    )


@pytest.fixture
def features():
    """Random features of two images without padding."""
    count = sum(height * width for height, width in SHAPES)
    return features_of(torch.randn(2, count, 16, dtype=torch.double), None, SHAPES, torch.ones(2, 2, 2).double())


def boxes_of(*shape):
    return torch.cat([torch.rand(*shape, 2) * 0.4 + 0.3, torch.rand(*shape, 2) * 0.3 + 0.1], -1).double()


@pytest.mark.shared
def test_class_token_equals_the_release(shared_dir):
    with np.load(shared_dir / 'oracles/strong_vp_public.npz') as file:
        data = {key.removeprefix('vpe/'): file[key] for key in file.files if key.startswith('vpe/')}
    cfg = json.loads(str(data['cfg']))
    dims = TransformerDims(cfg['C'], cfg['heads'], 64, cfg['points'], len(data['spatial_shapes']))
    encoder = AggregatingPromptEncoder(dims, num_layers=cfg['num_layers']).double()
    # Load the weights under our names.
    renamed = {
        'global_embedding.weight': 'aggregator_content',
        'context_embedding.weight': 'exemplar_content',
        'ref_point_head': 'position_encoding',
    }
    state = {}
    for key, value in data.items():
        if key.startswith('weight/'):
            name = key.removeprefix('weight/')
            for old, new in renamed.items():
                name = name.replace(old, new)
            state[name] = torch.from_numpy(value)
    encoder.load_state_dict(state)
    # Number the groups in the order of the labels, and leave out the aggregators, which the encoder adds.
    features = features_of(
        torch.from_numpy(data['feat']),
        torch.from_numpy(data['feat_padding_mask']),
        tuple((int(height), int(width)) for height, width in data['spatial_shapes']),
        torch.from_numpy(data['valid_ratios']),
    )
    boxes, groups = torch.full((2, 4, 4), 0.5).double(), torch.full((2, 4), -1)
    for b in range(2):
        own = data['box_types'][b] == 1
        labels = torch.from_numpy(data['box_labels'][b][own])
        boxes[b, : own.sum()] = torch.from_numpy(data['boxes_cxcywh'][b][own])
        groups[b, : own.sum()] = labels.unique(return_inverse=True)[1]
    out = encoder(boxes, features, groups)
    for b in range(2):
        order = data[f'out_labels{b}'].argsort()
        np.testing.assert_allclose(
            out[b, : len(order)].detach(), data[f'out{b}'][order], rtol=0, atol=1e-9, err_msg=f'image {b}'
        )


@pytest.mark.parametrize('aggregator', ['class_token', 'mean'])
def test_group_embedding_does_not_depend_on_other_groups_and_images(features, aggregator):
    encoder = encoder_of(aggregator, num_layers=2)
    boxes, groups = boxes_of(2, 5), torch.tensor([[0, 1, 0, 1, 1], [0, -1, -1, -1, -1]])
    together = encoder(boxes, features, groups)
    assert together.shape == (2, 2, 16)
    for image, group in ((0, 0), (0, 1), (1, 0)):
        own = boxes[image, groups[image] == group][None]
        alone = encoder(own, features.image(image), torch.zeros(own.shape[:2], dtype=torch.long))
        torch.testing.assert_close(together[image, group], alone[0, 0])
    # The boxes of a group are a set.
    order = torch.tensor([2, 4, 0, 3, 1])
    torch.testing.assert_close(encoder(boxes[:, order], features, groups[:, order])[0], together[0])


def test_mean_averages_the_embeddings_of_single_boxes(features):
    boxes, groups = boxes_of(2, 3), torch.tensor([[0, 1, 0], [0, 0, 1]])
    single = encoder_of('single')(boxes, features)
    mean = encoder_of('mean')(boxes, features, groups)
    torch.testing.assert_close(mean[0], torch.stack([(single[0, 0] + single[0, 2]) / 2, single[0, 1]]))


def test_class_token_depends_on_every_box_of_its_group(features):
    boxes = boxes_of(2, 3).requires_grad_()
    encoder_of('class_token')(boxes, features, torch.tensor([[0, 0, 1], [0, 0, 0]]))[0, 0].sum().backward()
    assert (boxes.grad.abs().amax(-1) > 0).tolist() == [[True, True, False], [False] * 3]


def test_aggregating_encoder_rejects_settings_out_of_range(build_tiny):
    dims = TransformerDims(**SIZES)
    with pytest.raises(InputError, match="aggregator must be 'class_token' or .*, got 'token'"):
        AggregatingPromptEncoder(dims, 'token')
    with pytest.raises(InputError, match='num_layers must be at least 1, got 0'):
        AggregatingPromptEncoder(dims, num_layers=0)
    with pytest.raises(InputError, match="source must be 'neck' or 'encoder', got 'head'"):
        AggregatingPromptEncoder(dims, source='head')
    with pytest.raises(InputError, match=r"set model\.encoder\.encoder_fusion='none', or source='neck'"):
        build_tiny(**{'model.prompts.encoder': dict(type='VisualPromptEncoder', source='encoder')})


# The draw ---------------------------------------------------------------------------------------------------


def test_pair_exemplars_are_uniform_in_number():
    counts = torch.zeros(3)
    for _ in range(600):
        first, second, empty = pair_exemplars([torch.tensor([4, 7, 4, 4]), torch.tensor([4]), torch.tensor([]).long()])
        assert first[1] == 7
        assert second.tolist() == [4]
        assert empty.tolist() == []
        counts[(first == 4).sum() - 1] += 1
    torch.testing.assert_close(counts / 600, torch.full((3,), 1 / 3), atol=0.08, rtol=0)  # standard deviation 0.02


# In the detector --------------------------------------------------------------------------------------------


def tiny(build_tiny, aggregator='class_token', **settings):
    cfg = dict(type='AggregatingPromptEncoder', aggregator=aggregator, num_layers=1)
    return build_tiny(
        **{'model.prompts.encoder': cfg} | {f'model.prompts.{name}': value for name, value in settings.items()}
    )


def total(losses):
    return sum(value.sum() for name, value in losses.items() if 'loss' in name)


@pytest.mark.parametrize('aggregator', ['class_token', 'mean'])
@pytest.mark.parametrize(
    'settings',
    [
        dict(),
        dict(prompt_sampling='class_prototype'),
        dict(prompt_sampling='class_prototype', exclude_self=True, prompt_dropout=0.5),
        dict(prompt_sampling='per_image'),
    ],
)
def test_losses_are_finite_and_reach_every_parameter(build_tiny, make_batch, aggregator, settings):
    model = tiny(build_tiny, aggregator, **settings)
    for counts in ((0, 0), (5, 0, 3)):
        model.zero_grad()
        losses = model.loss(*make_batch(counts))
        total(losses).backward()
        assert all(value.isfinite().all() for value in losses.values())
        missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing


@pytest.mark.parametrize('encoder', ['AggregatingPromptEncoder', 'VisualPromptEncoder'])
@pytest.mark.parametrize('counts', [(0, 0), (1, 0, 2)])
def test_world_of_one_process_has_the_prompts_of_its_batch(build_tiny, make_batch, encoder, counts):
    model = build_tiny(
        **{'model.prompts.encoder': dict(type=encoder), 'model.prompts.prompt_sampling': 'class_prototype'}
    )
    inputs, samples = make_batch(counts)
    for sample in samples:  # one box per image and class, so that nothing is drawn
        sample.gt_instances.labels = torch.arange(len(sample.gt_instances))
    losses = []
    for gather in (None, rank_gather()):
        model.rank_gather = gather
        losses.append({name: value for name, value in model.loss(inputs, samples).items() if 'dn_' not in name})
    torch.testing.assert_close(losses[1], losses[0])


def test_prototype_is_the_mean_over_images_of_the_embeddings_of_their_exemplars(build_tiny, make_batch):
    model = tiny(build_tiny, prompt_sampling='class_prototype')
    inputs, samples = make_batch((3, 2), num_classes=1)
    draw, labels, _ = draw_prompts(samples, model.prompts_cfg, pairs=True)
    features = model.encode_image(inputs, samples)
    boxes, shapes = [s.gt_instances.bboxes for s in samples], [s.img_shape for s in samples]
    prompts, _ = drawn_prompts(model.prompt_encoder, features, boxes, shapes, draw)
    rows = []
    for i, exemplar in enumerate(draw.exemplars):
        chosen = [boxes[i][exemplar >= 0]]
        rows.append(model.encode_exemplars(features.image(i), chosen, [labels[i][exemplar >= 0]], shapes[i : i + 1])[0])
    assert [len(row) for row in rows] == [1, 1]
    torch.testing.assert_close(prompts, (rows[0] + rows[1]) / 2)


def test_alignment_compares_the_mean_over_images(build_tiny, make_batch):
    model = tiny(
        build_tiny,
        language_model=dict(type='WordHashModel'),
        alignment=dict(type='LanguageAlignment'),
        text_prompts='class',
    )
    inputs, samples = make_batch((3, 2), num_classes=3)
    for sample in samples:
        sample.set_metainfo(dict(text=('red', 'green', 'blue')))
    losses = model.loss(inputs, samples)
    assert losses['loss_alignment'] > 0
    total(losses).backward()
    assert model.prompt_encoder.aggregator_content.grad.abs().sum() > 0


def test_boxes_of_a_class_on_an_image_become_one_prompt(build_tiny, make_batch):
    model = tiny(build_tiny).eval()
    inputs, samples = make_batch((3,))
    features = model.encode_image(inputs, samples)
    shapes, boxes = [samples[0].img_shape], samples[0].gt_instances.bboxes
    labels = torch.tensor([1, 0, 1])
    (prompts,) = model.prompt_sets(features, samples, [BoxPrompts(boxes, labels, ('a', 'b', 'c'))])
    both, classes = model.encode_exemplars(features, [boxes], [labels], shapes)
    assert classes[0].tolist() == [0, 1]
    torch.testing.assert_close(prompts.embeddings[:2], both)
    # A class with one box is encoded like a box alone; one with two boxes is not their mean.
    single = model.encode_boxes(features, [boxes], shapes)
    torch.testing.assert_close(both[0], single[1])
    assert (both[1] - (single[0] + single[2]) / 2).abs().max() > 1e-3


class FusionFreeEncoder(PromptedEncoder):
    """An encoder whose image features do not depend on the prompts."""

    def __init__(self, *args, encoder_fusion, **kwargs):
        super().__init__(*args, **kwargs)
        assert encoder_fusion == 'none'

    def forward(self, features, prompts, tokens=None):
        nothing = prompts._replace(embeddings=torch.zeros_like(prompts.embeddings))
        return super().forward(features, nothing, tokens)[0], prompts


def test_prompts_from_the_output_of_the_encoder(build_tiny, make_batch):
    if 'FusionFreeEncoder' not in MODELS.module_dict:
        MODELS.register_module(module=FusionFreeEncoder)
    model = build_tiny(
        **{
            'model.prompts.encoder': dict(type='AggregatingPromptEncoder', num_layers=1, source='encoder'),
            'model.encoder.type': 'FusionFreeEncoder',
            'model.encoder.encoder_fusion': 'none',
        }
    )
    inputs, samples = make_batch((3, 1))
    losses = model.loss(inputs, samples)
    total(losses).backward()
    assert all(value.isfinite().all() for value in losses.values())
    # Prompts depend on the encoder, also outside training.
    model.eval()
    boxes, shapes = [s.gt_instances.bboxes for s in samples], [s.img_shape for s in samples]
    before = model.encode_boxes(model.encode_image(inputs, samples), boxes, shapes)
    with torch.no_grad():
        model.encoder.layers[0].norms[-1].bias += torch.randn(model.embed_dims)
    assert (model.encode_boxes(model.encode_image(inputs, samples), boxes, shapes) - before).abs().max() > 1e-3
    found = model.predict(inputs, samples, [BoxPrompts(b, torch.zeros(len(b)).long(), ('a',)) for b in boxes])
    assert all(len(sample.pred_instances) for sample in found)
