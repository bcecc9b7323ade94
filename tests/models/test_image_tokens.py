"""Tokens of an image, their positions and proposals are bitwise equal to those of MMDetection."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.models.detectors import DeformableDETR
from mmdet.models.layers import DeformableDetrTransformerEncoder, SinePositionalEncoding
from mmdet.structures import DetDataSample
from torch import nn

from dinor1.models.transformer import CachedSinePositions, flatten_levels
from dinor1.models.transformer.image_tokens import reference_points, token_proposals

SHAPES = ((13, 17), (7, 9), (4, 5))
PADDED = [(104, 100), (61, 136), (104, 136)]
POSITIONS = dict(num_feats=8, normalize=True, offset=0.0, temperature=20)


@pytest.fixture(params=[False, True], ids=['whole', 'padded'])
def pair(request):
    """Our features, and the encoder inputs of MMDetection's Deformable DETR as a dictionary."""
    levels = [torch.randn(3, 16, height, width) for height, width in SHAPES]
    image_shapes = PADDED if request.param else [(104, 136)] * 3
    embed = torch.randn(len(SHAPES), 16)
    ours = flatten_levels(levels, image_shapes, (104, 136), CachedSinePositions(**POSITIONS), embed)
    detector = SimpleNamespace(
        positional_encoding=SinePositionalEncoding(**POSITIONS),
        level_embed=embed,
        get_valid_ratio=DeformableDETR.get_valid_ratio,
    )
    metas = [dict(img_shape=shape, batch_input_shape=(104, 136)) for shape in image_shapes]
    theirs, _ = DeformableDETR.pre_transformer(detector, levels, [DetDataSample(metainfo=meta) for meta in metas])
    return ours, theirs


def test_flatten_levels_equals_mmdetection(pair):
    ours, theirs = pair
    assert torch.equal(ours.feat, theirs['feat'])
    assert torch.equal(ours.pos, theirs['feat_pos'])
    assert (ours.padding_mask is None) == (theirs['feat_mask'] is None)
    if ours.padding_mask is not None:
        assert torch.equal(ours.padding_mask, theirs['feat_mask'])
        assert ours.padding_mask.any(1).tolist() == [True, True, False]
    assert list(ours.spatial_shapes) == [tuple(shape) for shape in theirs['spatial_shapes'].tolist()]
    assert list(ours.level_start_index) == theirs['level_start_index'].tolist()
    assert torch.equal(ours.valid_ratios, theirs['valid_ratios'])


def test_reference_points_equal_mmdetection(pair):
    ours, theirs = pair
    expected = DeformableDetrTransformerEncoder.get_encoder_reference_points(
        theirs['spatial_shapes'], theirs['valid_ratios'], 'cpu'
    )
    assert torch.equal(reference_points(ours).expand_as(expected), expected)


def test_token_proposals_equal_mmdetection(pair):
    ours, theirs = pair
    detector = SimpleNamespace(memory_trans_fc=nn.Identity(), memory_trans_norm=nn.Identity())
    memory, expected = DeformableDETR.gen_encoder_output_proposals(
        detector, theirs['feat'], theirs['feat_mask'], theirs['spatial_shapes']
    )
    proposals, usable = token_proposals(ours)
    assert torch.equal(proposals, expected)
    assert torch.equal(ours.feat.masked_fill(~usable, 0.0), memory)
    assert torch.equal(usable[..., 0], expected.isfinite().all(-1))
    assert usable.any()
    assert (~usable).any() == (ours.padding_mask is not None)
