"""GRQO on MMDetection's DINO: fixed classes, the same reward and reference model."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config

from dinor1.models import GRQOLoss, ReferenceModel
from dinor1.models.heads.cost_weights import cost_weights
from dinor1.registry import MODELS
from dinor1.utils.errors import InputError


@pytest.fixture(scope='module')
def dino_cfg():
    """MMDetection's stock DINO with small sizes, except for its decoder, whose 256 channels are fixed."""
    cfg = get_config('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py').model
    cfg = Config(dict(model=cfg))
    cfg.merge_from_dict(
        {
            'model.type': 'DINOGRQO',
            'model.bbox_head.type': 'DINOGRQOHead',
            'model.bbox_head.num_classes': 8,
            'model.num_queries': 12,
            'model.num_feature_levels': 3,
            'model.backbone': dict(
                _delete_=True, type='ResNet', depth=18, base_channels=8, out_indices=(1, 2, 3), norm_cfg=dict(type='BN')
            ),
            'model.neck.in_channels': [16, 32, 64],
            'model.neck.num_outs': 3,
            'model.encoder.num_layers': 1,
            'model.encoder.layer_cfg.self_attn_cfg.num_levels': 3,
            'model.encoder.layer_cfg.ffn_cfg.feedforward_channels': 64,
            'model.decoder.num_layers': 2,
            'model.decoder.layer_cfg.cross_attn_cfg.num_levels': 3,
            'model.decoder.layer_cfg.ffn_cfg.feedforward_channels': 64,
            'model.dn_cfg.group_cfg.num_dn_queries': 8,
        }
    )
    return cfg.model


def build(cfg):
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    return model


def test_dino_grqo_without_grqo_equals_the_stock_detector(dino_cfg, make_batch):
    ours = build(dino_cfg)
    stock = build(dict(dino_cfg, type='mmdet.DINO', bbox_head=dict(dino_cfg.bbox_head, type='mmdet.DINOHead')))
    stock.load_state_dict(ours.state_dict())
    inputs, samples = make_batch((2, 1))
    results = []
    for model in (ours, stock):
        torch.manual_seed(5)
        results.append(model.loss(inputs, copy.deepcopy(samples)))
    assert set(results[0]) == set(results[1])
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name]), name


def test_dino_grqo_loss_is_finite_with_gradient(dino_cfg, make_batch):
    # Use the memory layout of the reference, since another layout adds in another order.
    model = build(dino_cfg).train().to(memory_format=torch.channels_last)
    inputs, samples = make_batch((2, 0))
    reference = copy.deepcopy(model)
    model.bbox_head.loss_grqo = GRQOLoss()
    model.reference = ReferenceModel(reference)
    losses = model.loss(inputs, samples)
    # Equal weights, equal mode and no dropout: the KL is zero.
    assert losses['grqo_kl'] == 0
    assert losses['loss_grqo'].isfinite()
    assert losses['d0.loss_grqo'].isfinite()
    (gradient,) = torch.autograd.grad(
        losses['d0.loss_grqo'] + losses['loss_grqo'], model.bbox_head.cls_branches[1].weight
    )
    assert gradient.abs().max() > 0
    with torch.no_grad():
        for parameter in reference.bbox_head.cls_branches[2].parameters():
            parameter.add_(0.1)
    assert model.loss(inputs, samples)['grqo_kl'] > 0


def test_dino_grqo_disabled_gives_the_stock_losses(dino_cfg, make_batch):
    cfg = copy.deepcopy(dino_cfg)
    cfg.bbox_head.loss_grqo = dict(type='GRQOLoss')
    plain, model = build(dino_cfg).train(), build(cfg).train()
    batch, results = make_batch((2, 1)), []
    for detector in (plain, model):
        if detector is model:
            detector.bbox_head.loss_grqo.enabled = False
        torch.manual_seed(5)
        results.append(detector.loss(*copy.deepcopy(batch)))
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    model.bbox_head.loss_grqo.enabled = True
    with pytest.raises(InputError, match='need a reference model'):
        model.loss(*batch)


def test_loss_and_output_returns_the_hidden_states(dino_cfg, make_batch):
    model, batch = build(dino_cfg).train(), make_batch((2, 1))
    torch.manual_seed(0)
    losses, output = model.loss_and_output(*copy.deepcopy(batch))
    torch.manual_seed(0)
    again = model.loss(*batch)
    assert all(torch.equal(losses[name], again[name]) for name in again)
    loss = sum(value.sum() for value in losses.values())
    assert torch.autograd.grad(loss, output.hidden_states)[0].abs().max() > 0


def test_dino_grqo_reward_uses_the_weights_of_the_matcher(dino_cfg, make_batch):
    cfg = copy.deepcopy(dino_cfg)
    assert cost_weights(build(cfg).bbox_head.assigner.match_costs, 'FocalLossCost') == dict(
        cls_weight=2.0, l1_weight=5.0, giou_weight=2.0, alpha=0.25, gamma=2, eps=1e-12
    )
    inputs, samples = make_batch((2, 1))
    rewards = []
    for factor in (1, 3):
        for cost in cfg.train_cfg.assigner.match_costs:
            cost.weight = cost.weight * factor
        model = build(cfg).train()
        model.bbox_head.loss_grqo = GRQOLoss(beta=0.0)
        torch.manual_seed(0)
        rewards.append(model.loss(inputs, copy.deepcopy(samples))['grqo_reward_mean'])
    torch.testing.assert_close(rewards[1], 3 * rewards[0])
    cfg.train_cfg.assigner.match_costs[2] = dict(type='IoUCost', iou_mode='iou', weight=2.0)
    model = build(cfg).train()  # without GRQO, every matcher is accepted
    model.loss(inputs, copy.deepcopy(samples))
    model.bbox_head.loss_grqo = GRQOLoss(beta=0.0)
    with pytest.raises(InputError, match="IoUCost\\('iou'\\) is not supported"):
        model.loss(inputs, samples)


@pytest.mark.parametrize('kind', ['PromptRankingLoss', 'QualityAwareLoss'])
def test_dino_grqo_ranks_the_queries_of_each_class(dino_cfg, make_batch, kind):
    cfg = copy.deepcopy(dino_cfg)
    cfg.bbox_head.loss_ranking = dict(type=kind)
    plain, model = build(dino_cfg).train(), build(cfg).train()
    batch, results = make_batch((2, 1)), []
    for detector in (plain, model):
        torch.manual_seed(5)
        results.append(detector.loss(*copy.deepcopy(batch)))
    expected, found = results
    names = {'d0.loss_ranking', 'loss_ranking', 'enc_loss_ranking'}
    assert found.keys() - expected.keys() == names
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(0 < found[name] < float('inf') for name in names)
    # GRQO sees the decoder layers alone, with and without the ranking.
    for detector in (plain, model):
        detector.bbox_head.loss_grqo = GRQOLoss(beta=0.0)
        torch.manual_seed(5)
        results.append(detector.loss(*copy.deepcopy(batch)))
    assert all(torch.equal(results[2][name], results[3][name]) for name in results[2])
