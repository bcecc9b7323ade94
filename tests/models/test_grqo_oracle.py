"""GRQO, the prompt encoder and the alignment loss, compared with results of the functions of the public release."""

import json

import numpy as np
import pytest
import torch

from dinor1.models import VisualPromptEncoder
from dinor1.models.losses import grqo_loss, query_rewards, symmetric_info_nce
from dinor1.models.prompts import upgrade_prompt_encoder
from dinor1.models.transformer import TransformerDims
from dinor1.structures import ImageFeatures

pytestmark = pytest.mark.shared
# The results are in float64; their description states an absolute tolerance of 1e-10.
ATOL = 1e-10


@pytest.fixture(scope='module')
def oracle(shared_dir):
    with np.load(shared_dir / 'oracles/dino_r1_public.npz') as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize('case', ['grqo0', 'grqo1', 'grqo2', 'grqo3'])
def test_grqo_loss_and_gradients_equal_the_release(oracle, case):
    # Compare the rewards.
    data = {k.split('/', 1)[1]: v for k, v in oracle.items() if k.startswith(case + '/')}
    cfg = json.loads(str(data['cfg']))
    leaves = {
        name: torch.from_numpy(data[key]).requires_grad_()
        for name, key in dict(cls_logits='cls_logits', boxes='boxes_cxcywh', selected='selected_logits').items()
    }
    eye = torch.eye(cfg['num_prompts'], dtype=torch.float64)
    targets = [
        dict(boxes=torch.from_numpy(data[f'gt_boxes{b}']), positive_map=eye[torch.from_numpy(data[f'gt_labels{b}'])])
        for b in range(cfg['batch'])
    ]
    rewards = query_rewards(leaves['cls_logits'], leaves['boxes'], targets, torch.from_numpy(data['img_hw']))
    np.testing.assert_allclose(rewards.detach(), data['reward'], rtol=0, atol=ATOL)

    # Compare the loss and its gradients.
    ref = torch.from_numpy(data['ref_logits']).gather(1, torch.from_numpy(data['selected_ids']))
    loss = grqo_loss(rewards, leaves['selected'], ref, alpha=cfg['alpha'], beta=cfg['beta'], num_mute=cfg['num_mute'])
    np.testing.assert_allclose(loss.detach(), data['loss_per_layer'], rtol=0, atol=ATOL)
    loss.sum().backward()
    for name, key in dict(cls_logits='grad_cls_logits', boxes='grad_boxes', selected='grad_selected_logits').items():
        np.testing.assert_allclose(leaves[name].grad, data[key], rtol=0, atol=ATOL, err_msg=name)


def test_visual_prompt_encoder_equals_the_release(oracle):
    data = {k.split('/', 1)[1]: v for k, v in oracle.items() if k.startswith('vpe/')}
    cfg = json.loads(str(data['cfg']))
    dims = TransformerDims(cfg['embed_dims'], cfg['num_heads'], cfg['ffn'], cfg['num_points'], cfg['num_levels'])
    encoder = VisualPromptEncoder(dims).double()
    state = {k.removeprefix('weight/'): torch.from_numpy(v) for k, v in data.items() if k.startswith('weight/')}
    state['content_query'] = torch.from_numpy(data['content_query'])
    assert upgrade_prompt_encoder(state)
    encoder.load_state_dict(state)
    shapes = tuple((height, width) for height, width in cfg['spatial_shapes'])
    sizes = [height * width for height, width in shapes]
    feat = torch.from_numpy(data['feat'])
    features = ImageFeatures(
        feat=feat,
        pos=torch.zeros_like(feat),
        padding_mask=torch.from_numpy(data['feat_padding_mask']),
        spatial_shapes=shapes,
        level_start_index=tuple(sum(sizes[:level]) for level in range(len(sizes))),
        valid_ratios=torch.from_numpy(data['valid_ratios']),
    )
    out = encoder(torch.from_numpy(data['boxes_cxcywh']), features)
    valid = ~data['box_padding_mask']
    # The frequencies of the sine encoding are in single precision in both MMDetection and the release.
    np.testing.assert_allclose(out.detach().numpy()[valid], data['out'][valid], rtol=0, atol=1e-10)


def test_alignment_equals_the_release(oracle):
    text = torch.from_numpy(oracle['contra/text'])
    visual = torch.from_numpy(oracle['contra/visual']).requires_grad_()
    scale = torch.tensor(np.log(1 / 0.07), requires_grad=True)
    loss = symmetric_info_nce(visual, text, scale)
    loss.backward()
    np.testing.assert_allclose(loss.item(), oracle['contra/loss'], rtol=0, atol=ATOL)
    np.testing.assert_allclose(visual.grad, oracle['contra/grad_visual'], rtol=0, atol=ATOL)
    np.testing.assert_allclose(scale.grad, oracle['contra/grad_log_scale'], rtol=0, atol=ATOL)
