"""Which queries find an object, and how they spread over the decoder's layers.

DINO-R1 (arXiv 2505.24025) argues with a figure of its queries: after supervised training few of them answer for an
object, after GRQO many do. Here are numbers for it, of one image; definitions are ours:

- matched query    the one that the matcher assigns to the object, per layer; its place in the order of selection is 0
                   for the token of highest objectness
- distinct queries how many different ones are assigned to an object over all layers, 1 to L
- covering queries those whose box overlaps the object with an IoU of at least 0.5
- responding ones  covering queries whose best class is the object's
- spread           root mean square distance of the centres of the covering queries from their mean, relative to the
                   square root of the object's area
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from dinor1.models.losses import Targets, hungarian_match, matching_cost


@dataclass
class QueryStatistics:
    """Of G objects and L decoder layers.

    Attributes:
        matched: (L, G) place of the matched query in the order of selection.
        distinct: (G,) different matched queries over the layers.
        covering: (L, G) number of covering queries.
        responding: (L, G) number of responding queries.
        ever_responding: (G,) different queries that respond in at least one layer.
        spread: (L, G) see the module's text; NaN with fewer than two covering queries.
        iou: (L, G) of the matched query.
    """

    matched: np.ndarray
    distinct: np.ndarray
    covering: np.ndarray
    responding: np.ndarray
    ever_responding: np.ndarray
    spread: np.ndarray
    iou: np.ndarray

    @classmethod
    def concatenate(cls, parts: list['QueryStatistics']) -> 'QueryStatistics':
        """Objects of several images.

        Raises:
            ValueError: no part.
        """
        if not parts:
            raise ValueError('QueryStatistics: expected at least one image')
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts], -1) for f in fields(cls)))

    def summary(self) -> dict[str, float | int | list[float]]:
        """Means over the objects; per layer a list. Empty but for the count if there is no object."""
        count = len(self.distinct)
        if not count:
            return dict(objects=0)
        with np.errstate(invalid='ignore'):
            # An object that one query covers has no spread, and takes no part.
            known = np.isfinite(self.spread)
            spread = np.where(known, self.spread, 0).sum(1) / known.sum(1)
        return dict(
            objects=count,
            distinct_queries=float(self.distinct.mean()),
            ever_responding=float(self.ever_responding.mean()),
            matched_place=self.matched.mean(1).tolist(),
            matched_iou=self.iou.mean(1).tolist(),
            covering=self.covering.mean(1).tolist(),
            responding=self.responding.mean(1).tolist(),
            spread=[float(value) if np.isfinite(value) else None for value in spread],
        )


def query_statistics(
    cls_logits: Tensor, boxes: Tensor, targets: Targets, min_iou: float = 0.5, **cost_weights: float
) -> QueryStatistics:
    """Statistics of the objects of one image.

    Args:
        cls_logits: (L, 1, Q, K) logits of every decoder layer, one column per class, -inf where it is not offered;
            queries in the order of selection.
        boxes: (L, 1, Q, 4) normalised cxcywh.
        targets: The image's ground truth.
        min_iou: A query covers an object from this overlap on.
        **cost_weights: Of :func:`~dinor1.models.losses.matching.matching_cost`.
    """
    num_layers = len(cls_logits)
    count = sum(targets.counts)
    if not count:
        none, empty = np.zeros(0, dtype=np.int64), np.zeros((num_layers, 0), dtype=np.int64)
        return QueryStatistics(empty, none, empty, empty, none, empty.astype(np.float64), empty.astype(np.float64))
    match = hungarian_match(matching_cost(cls_logits, boxes, targets, **cost_weights), targets)
    # Fewer queries than objects leave objects without a match, which is the last place and no overlap.
    matched = torch.full((num_layers, count), cls_logits.shape[2])
    matched[match.stage.cpu(), match.target.cpu()] = match.query.cpu()

    scale = targets.scale[0]
    truth = box_convert(targets.boxes[0, :count] * scale, 'cxcywh', 'xyxy')
    found = box_convert(boxes[:, 0].float() * scale, 'cxcywh', 'xyxy')
    overlap = torch.stack([box_iou(layer, truth) for layer in found])  # (L, Q, G)
    covers = overlap >= min_iou
    labels = targets.positive_map[0, :count].argmax(-1)
    responds = covers & (cls_logits[:, 0].argmax(-1)[..., None] == labels)

    weights = covers.float()
    number = weights.sum(1)
    centres = boxes[:, 0, :, :2].float() * scale[:2]
    mean = torch.einsum('lqg,lqc->lgc', weights, centres) / number.clamp(min=1)[..., None]
    square = ((centres[:, :, None] - mean[:, None]).square().sum(-1) * weights).sum(1) / number.clamp(min=1)
    area = (targets.boxes[0, :count, 2:] * scale[2:]).prod(-1)
    spread = (square / area.clamp(min=1e-12)).sqrt().masked_fill(number < 2, float('nan'))

    padded = torch.cat([overlap, overlap.new_zeros(num_layers, 1, count)], 1)
    iou = padded.gather(1, matched[:, None].to(padded.device))[:, 0]
    columns = (
        matched,
        torch.tensor([len(set(column)) for column in matched.t().tolist()]),
        covers.sum(1),
        responds.sum(1),
        responds.any(0).sum(0),
        spread.double(),
        iou.double(),
    )
    return QueryStatistics(*(column.cpu().numpy() for column in columns))
