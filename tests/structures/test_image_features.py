"""Selection of one image from the features of a batch."""

import pytest
import torch

from dinor1.structures import ImageFeatures


@pytest.fixture
def features():
    """Three images with two levels of 4 x 5 and 2 x 3 tokens."""
    return ImageFeatures(
        feat=torch.randn(3, 26, 8),
        pos=torch.randn(3, 26, 8),
        padding_mask=torch.rand(3, 26) > 0.5,
        spatial_shapes=((4, 5), (2, 3)),
        level_start_index=(0, 20),
        valid_ratios=torch.rand(3, 2, 2),
    )


@pytest.mark.parametrize('index', [0, 1, 2])
def test_image_features_image_is_a_batch_of_one(features, index):
    one = features.image(index)
    assert (features.batch_size, one.batch_size) == (3, 1)
    for name in ('feat', 'pos', 'padding_mask', 'valid_ratios'):
        assert torch.equal(getattr(one, name), getattr(features, name)[[index]]), name
    assert one.spatial_shapes == features.spatial_shapes
    assert one.level_start_index == features.level_start_index


def test_image_features_without_padding_have_no_mask(features):
    assert features._replace(padding_mask=None).image(1).padding_mask is None
