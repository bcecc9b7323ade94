"""Swin: outputs and names as in MMDetection, without denormal numbers."""

import pytest
import torch

from dinor1.registry import MODELS

SMALL = dict(embed_dims=16, depths=(2, 2), num_heads=(2, 4), window_size=7, strides=(4, 2), out_indices=(0, 1))


@pytest.fixture
def pair():
    from mmdet.models.backbones import SwinTransformer as MMDetSwin

    torch.manual_seed(0)
    ours = MODELS.build(dict(type='DenormalFreeSwin', **SMALL))
    theirs = MMDetSwin(**SMALL)
    # Trained biases are not zero; with zeros, padding would hide other differences.
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for backbone in (ours, theirs):
        backbone.eval()
    return ours, theirs


def smallest_weight(backbone, images) -> float:
    """The smallest attention weight above zero in a forward pass."""
    seen = []
    for stage in backbone.stages:
        for block in stage.blocks:
            block.attn.w_msa.softmax.register_forward_hook(lambda _module, _args, out: seen.append(out[out > 0].min()))
    backbone(images)
    return min(seen).item()


@torch.no_grad()
def test_swin_equals_mmdetection(pair):
    ours, theirs = pair
    images = torch.randn(1, 3, 90, 130)
    for mine, their in zip(ours(images), theirs(images), strict=True):
        # The terms left out are 4e-44 of a sum.
        torch.testing.assert_close(mine, their, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_swin_attention_weights_are_not_denormal(pair):
    ours, theirs = pair
    images = torch.randn(1, 3, 90, 130)
    tiny = torch.finfo(torch.float32).tiny
    assert smallest_weight(theirs, images) < tiny  # MMDetection has denormal weights on this input
    assert smallest_weight(ours, images) > tiny


def test_swin_gradients_equal_mmdetection(pair):
    ours, theirs = pair
    images = torch.randn(1, 3, 60, 60)
    for backbone in pair:
        sum(level.square().sum() for level in backbone(images)).backward()
    for (name, mine), their in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, their.grad, atol=1e-4, rtol=1e-4, msg=name)
