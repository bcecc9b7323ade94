"""Losses and fusion of the strong recipe, compared with results of the functions of DETR-ViP's public release."""

import json

import numpy as np
import pytest
import torch

from dinor1.models.losses import alignment_loss, relation_distill_loss, soft_targets
from dinor1.models.transformer import PromptFusionBlock, PromptSimilarity, SelectiveEncoder, TransformerDims
from dinor1.structures import ImageFeatures, PromptBatch

pytestmark = pytest.mark.shared
# The release casts the targets of its losses to float32.
RTOL = 1e-6
# Everything else is in float64; the description states this absolute tolerance.
ATOL = 1e-9


@pytest.fixture(scope='module')
def oracle(shared_dir):
    with np.load(shared_dir / 'oracles/strong_vp_public.npz') as file:
        return {key: file[key] for key in file.files}


def case(oracle, name):
    """Arrays of one case as tensors, and its settings."""
    data = {key.split('/', 1)[1]: value for key, value in oracle.items() if key.startswith(f'{name}/')}
    cfg = json.loads(str(data.pop('cfg'))) if 'cfg' in data else {}
    return {key: torch.from_numpy(np.asarray(value)) for key, value in data.items()}, cfg


def weights(data, prefix='weight/'):
    return {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}


def assert_near(actual, expected, rtol=0.0, atol=ATOL):
    np.testing.assert_allclose(actual.detach().numpy(), expected.numpy(), rtol=rtol, atol=atol)


@pytest.mark.parametrize('name', ['rel0', 'rel1', 'rel2', 'rel3'])
def test_relation_distill_loss_equals_the_release(oracle, name):
    data, cfg = case(oracle, name)
    visual, text = data['visual'].requires_grad_(), data['text'][data['labels']]
    target = soft_targets(text, cfg['tau_t'])
    assert_near(target, data['soft_targets'])
    assert_near(torch.special.entr(target).sum(-1).mean(), data['target_entropy_mean'])
    loss = relation_distill_loss(
        visual, text, cfg['tau_v'], cfg['tau_t'], cfg['weight'], normalize=cfg['normalize_visual']
    )
    assert_near(loss, data['loss'], RTOL)
    loss.backward()
    # Gradients near 0 are differences of large terms.
    assert_near(visual.grad, data['grad_visual'], RTOL, RTOL * data['grad_visual'].abs().max().item())


@pytest.mark.parametrize('name', ['align0', 'align1', 'align2', 'align3'])
def test_alignment_loss_equals_the_release(oracle, name):
    data, cfg = case(oracle, name)
    visual, text = data['visual'].requires_grad_(), data['text'].requires_grad_()
    targets = (data['visual_labels'][:, None] == data['text_labels']).int().argmax(1)
    loss = alignment_loss(visual, text, targets, 1 / cfg['temperature'], cfg['normalize'], symmetric=False)
    assert_near(loss, data['loss'], RTOL)
    loss.backward()
    for key, leaf in dict(grad_visual=visual, grad_text=text).items():
        assert_near(leaf.grad, data[key], RTOL, RTOL * data[key].abs().max().item())


def similarity_state(data, modality):
    """Weights of the release's similarity head of one modality, under our names."""
    kind = dict(visual='vis', text='text')[modality]
    prefix = f'{modality}_memory_feat_map.'
    state = {f'query_map.{key}': value for key, value in weights(data, prefix).items()}
    return state | dict(bias=data[f'{kind}_bias'])


@pytest.mark.parametrize('modality', ['visual', 'text'])
def test_prompt_similarity_with_query_map_equals_the_release(oracle, modality):
    data, _ = case(oracle, 'head')
    head = PromptSimilarity(query_map=32).double()
    head.load_state_dict(similarity_state(weights(data), modality))
    assert_near(head(data['queries'], data['prompts'], data['prompt_valid']), data[f'logits_{modality}'])


@pytest.mark.parametrize('name', ['all', 'some', 'none'])
def test_gated_fusion_block_equals_the_release(oracle, name):
    data, _ = case(oracle, 'fusion')
    block = PromptFusionBlock(32, embed_dims=64, num_heads=4, dropout=0.0).double()
    block.load_state_dict(weights(data))
    image, prompts = data['image'].requires_grad_(), data['prompts'].requires_grad_()
    outputs = block(image, prompts, data['image_padding'], data['prompt_padding'], data[f'{name}/gate'])
    for output, key in zip(outputs, ('image_out', 'prompts_out'), strict=True):
        assert_near(output, data[f'{name}/{key}'])
    if name == 'none':  # the release has no gradient here
        return
    sum(output.square().sum() for output in outputs).backward()
    assert_near(image.grad, data[f'{name}/grad_image'])
    assert_near(prompts.grad, data[f'{name}/grad_prompts'])


@torch.no_grad()
def test_selective_encoder_equals_the_release(oracle):
    data, cfg = case(oracle, 'enc')
    # Build the encoder, and rename the weights of the gates.
    dims = TransformerDims(32, cfg['heads'], 64, num_feature_levels=2)
    encoder = SelectiveEncoder(
        dims,
        cfg['num_layers'],
        num_fusion_layers=cfg['num_fusion'],
        fusion_threshold=cfg['theta'],
        fusion=dict(embed_dims=64, num_heads=4, dropout=0.0),
    )
    state = {}
    for key, value in weights(data).items():
        for theirs, ours in dict(memory_trans_fc='fc', memory_trans_norm='norm').items():
            if key.startswith(theirs):
                _, layer, kind = key.split('.')
                key = f'gates.{layer}.{ours}.{kind}'
        state[key] = value
    for layer in ('1', '2'):
        own = similarity_state(weights(data, f'gate_weight/{layer}.'), 'visual')
        state |= {f'gates.{layer}.similarity.{key}': value for key, value in own.items()}
    encoder = encoder.double().eval()
    encoder.load_state_dict(state)
    # Encode, and record the output of every layer.
    shapes = [tuple(shape) for shape in data['spatial_shapes'].tolist()]
    features = ImageFeatures(
        data['feat'],
        data['feat_pos'],
        data['feat_padding_mask'],
        tuple(shapes),
        (0, shapes[0][0] * shapes[0][1]),
        data['valid_ratios'],
    )
    layers = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: layers.append(output))
    output = encoder(features, PromptBatch.shared(data['prompts'], 2, data['prompt_valid']))
    assert_near(torch.stack(layers), data['memory_per_layer'])
    assert_near(output.memory, data['memory_per_layer'][-1])
    assert_near(output.prompts.embeddings, data['prompts_per_layer'][-1])
    assert_near(torch.stack(output.gate_logits), data['gate_logits'])
    assert torch.equal(torch.stack(output.gates)[:, :, 0], data['gate'])
