"""Contrastive denoising queries: noised ground truth that the decoder learns to reconstruct.

DINO, Zhang et al., arXiv 2203.03605, section 3.3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet.models.layers import CdnQueryGenerator
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from dinor1.structures import DenoisingGroups


class DenoisingQueries(NamedTuple):
    """Denoising queries, which come before the selected queries in training.

    Attributes:
        content: (bs, num_dn, C) embeddings of noised labels.
        boxes: (bs, num_dn, 4) normalised cxcywh.
        attention_mask: (num_dn + num_queries, num_dn + num_queries) True = may not attend.
        groups: Layout of the denoising queries.
        zero: Scalar 0 that keeps the label embedding in the graph: a batch without boxes has no denoising queries, but
            DDP needs all parameters.
    """

    content: Tensor
    boxes: Tensor
    attention_mask: Tensor
    groups: DenoisingGroups
    zero: Tensor

    def before(self, query: Tensor, reference_points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Put these queries in front of the selected queries, in the dtype of the selected queries.

        Args:
            query: (bs, N, C).
            reference_points: (bs, N, 4).

        Returns:
            Queries (bs, num_dn + N, C), reference points (bs, num_dn + N, 4), and the attention mask of all queries.
        """
        query = torch.cat([self.content.to(query.dtype), query], 1) + self.zero
        reference_points = torch.cat([self.boxes.to(reference_points.dtype), reference_points], 1)
        # The mask covers num_queries selected queries; crop it, since an image with few tokens has fewer.
        return query, reference_points, self.attention_mask[: query.shape[1], : query.shape[1]]


def denoising_queries(
    generator: CdnQueryGenerator,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    image_shapes: Sequence[tuple[int, int]],
) -> DenoisingQueries:
    """Noised ground truth of a batch, drawn from torch's global generator.

    Labels are taken modulo the size of the generator's embedding: published checkpoints have 256 rows, and a data set
    may have more classes. Classes that share a row only share the initial content of their noised queries, because
    targets and losses refer to the prompts.

    Args:
        generator: MMDetection's generator, which holds the label embedding.
        boxes: Per image (m, 4) pixel xyxy.
        labels: Per image (m,) class indices.
        image_shapes: Per image (height, width) in pixels, without padding.
    """
    # Wrap boxes and labels in the form that MMDetection's generator expects.
    samples = [
        DetDataSample(
            metainfo=dict(img_shape=shape),
            gt_instances=InstanceData(bboxes=box, labels=label % generator.num_classes),
        )
        for box, label, shape in zip(boxes, labels, image_shapes, strict=True)
    ]
    # Draw the noised queries.
    content, box_logits, attention_mask, meta = generator(samples)
    groups = DenoisingGroups(meta['num_denoising_queries'], meta['num_denoising_groups'])
    zero = generator.label_embedding.weight[0, 0] * 0
    return DenoisingQueries(content, box_logits.sigmoid(), attention_mask, groups, zero)
