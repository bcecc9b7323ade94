"""Every norm in the detector: by ``norm_cfg`` if it fits, errors otherwise, and by ``replace_norm``."""

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from dinor1.blocks.norm_conversion import replace_norm
from dinor1.blocks.normalization import NORMS, EvoNormS0, is_norm

TOKEN_NORMS = [name for name in NORMS if not name.startswith('EvoNorm')]
# Norms over positions work with any layout; the others only normalise the last axis.
MAP_NORMS = {
    **{name: {} for name in NORMS if name.startswith('EvoNorm')},
    **{name: dict(channel_dim=1) for name in ('PN', 'UN', 'L1LN', 'L1BN')},
}


def kinds(module):
    return {type(child) for child in module.modules() if is_norm(child)}


def assert_gradients(model, but=()):
    """Check that every parameter has a finite gradient, and that those of norms are not all zero."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith(but):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    norms = [p.grad for m in model.modules() if type(m) in NORMS.values() for p in m.parameters(recurse=False)]
    assert not norms or any(gradient.any() for gradient in norms)


@pytest.mark.parametrize('name', TOKEN_NORMS)
def test_detector_transformer_with_norm(build_tiny, make_batch, name):
    """One setting changes every norm except those of the backbone and the neck."""
    model = build_tiny(**{'model.transformer.norm_cfg': dict(type=name)})
    for part in (model.encoder, model.decoder, model.prompt_encoder):
        assert kinds(part) == {NORMS[name]}
    assert type(model.memory_trans_norm) is NORMS[name]
    assert kinds(model.backbone) == {nn.BatchNorm2d}
    assert kinds(model.neck) == {nn.GroupNorm}

    # Train with boxes, and without.
    for counts in ((2, 1), (0, 0)):
        model.zero_grad()
        loss, _ = model.parse_losses(model(*make_batch(counts), mode='loss'))
        loss.backward()
        assert loss.isfinite()
        assert_gradients(model)
    model.eval()
    with torch.no_grad():
        assert model.parse_losses(model(*make_batch((2, 1)), mode='loss'))[0].isfinite()


@pytest.mark.parametrize('name', ['EvoNormB0', 'EvoNormS0'])
def test_detector_image_norms_for_tokens_raise(build_tiny, make_batch, name):
    model = build_tiny(**{'model.transformer.norm_cfg': dict(type=name)})
    with pytest.raises(ValueError, match=f'{name} normalises images .* tokens have no H and W'):
        model(*make_batch(), mode='loss')
    report = replace_norm(build_tiny(), cfg=dict(type=name)).norm_report
    assert 'normalises images' in report['decoder.norm'].reason
    assert report.names('converted') == []


def small_swin(norm_cfg, **arguments):
    from mmdet.models.backbones import SwinTransformer

    return SwinTransformer(
        embed_dims=8,
        depths=(1, 2),
        num_heads=(1, 2),
        strides=(4, 2),
        window_size=3,
        out_indices=(0, 1),
        norm_cfg=norm_cfg,
        **arguments,
    )


@pytest.mark.parametrize('name', TOKEN_NORMS)
def test_swin_with_norm(name):
    model = small_swin(dict(type=name))
    model.init_weights()
    assert kinds(model) == {NORMS[name]}
    images = torch.randn(2, 3, 40, 44)  # not a multiple of the window: includes shifted and padded windows
    outputs = model(images)
    assert [tuple(output.shape) for output in outputs] == [(2, 8, 10, 11), (2, 16, 5, 6)]
    sum(output.square().mean() for output in outputs).backward()
    assert_gradients(model)


@pytest.mark.parametrize('name', ['PN', 'UN', 'L1BN', 'FixedStdLN'])
def test_swin_with_activation_checkpoints_keeps_state(name):
    arguments = dict(warmup_iters=1) if name in ('PN', 'UN') else {}
    plain = small_swin(dict(type=name, **arguments), drop_path_rate=0.0)
    repeated = small_swin(dict(type=name, **arguments), drop_path_rate=0.0, with_cp=True)
    repeated.load_state_dict(plain.state_dict())
    for _ in range(3):
        images = torch.randn(2, 3, 32, 32)
        for model in (plain, repeated):
            model.zero_grad()
            sum(output.square().mean() for output in model(images)).backward()
    for (key, value), (_, other) in zip(plain.named_buffers(), repeated.named_buffers(), strict=True):
        assert torch.equal(value, other), key
    for (key, value), (_, other) in zip(plain.named_parameters(), repeated.named_parameters(), strict=True):
        torch.testing.assert_close(value.grad, other.grad, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize('name', MAP_NORMS)
def test_backbone_and_neck_with_norm(name):
    from mmdet.models.backbones import ResNet
    from mmdet.models.necks import ChannelMapper

    cfg = dict(type=name, **MAP_NORMS[name])
    backbone = ResNet(18, base_channels=8, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1),
                      norm_cfg=cfg, norm_eval=False)  # fmt: skip
    neck = ChannelMapper([8, 16], out_channels=16, num_outs=3, norm_cfg=cfg, act_cfg=None)
    assert kinds(backbone) | kinds(neck) == {NORMS[name]}
    # ResNet names a norm by its abbreviation: a class called L1BatchNorm must not become bn1.
    assert hasattr(backbone, NORMS[name]._abbr_ + '1')
    assert not hasattr(backbone, 'bn1')
    outputs = neck(backbone(torch.randn(2, 3, 64, 64)))
    assert [output.shape[-1] for output in outputs] == [16, 8, 4]
    sum(output.square().mean() for output in outputs).backward()
    for model in (backbone, neck):
        assert_gradients(model)


@pytest.mark.parametrize('name', ['RMSNorm', 'CRMSNorm', 'FixedStdLN', 'UN'])
def test_backbone_token_norms_for_maps_raise(name):
    layer = ConvModule(3, 8, 3, norm_cfg=dict(type=name))
    with pytest.raises(
        ValueError, match=r'normalises 8 channels on axis -1, got shape \(2, 8, 10, 10\); .*channel_dim=1'
    ):
        layer(torch.randn(2, 3, 12, 12))


def test_evo_norm_replaces_norm_and_activation_of_conv_module():
    layer = ConvModule(3, 8, 3, norm_cfg=dict(type='EvoNormS0', groups=4), act_cfg=None)
    assert type(layer.norm) is EvoNormS0
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(layer(x), copy.deepcopy(layer.norm)(layer.conv(x)))
