"""Statistics of the queries that find an object, over the decoder layers.

DINO-R1 (arXiv 2505.24025) shows a figure of its queries: after supervised training, few of them respond to an object;
after GRQO, many do. This module measures it for one image, with definitions of its own:

- matched query      the query that the matcher assigns to the object in a decoder layer; its index in the order of
                     selection is 0 for the token of highest objectness
- distinct queries   number of different queries that are matched to an object over all layers, 1 to L
- covering queries   queries whose box overlaps the object with an IoU of at least 0.5
- responding queries covering queries whose best class is that of the object
- spread             root mean square distance of the centres of the covering queries from their mean, relative to the
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
    """Statistics of the queries of G objects in L decoder layers; see :mod:`dinor1.evaluation.queries`.

    Attributes:
        matched: (L, G) index of the matched query in the order of selection.
        distinct: (G,) number of different matched queries over the layers.
        covering: (L, G) number of covering queries.
        responding: (L, G) number of responding queries.
        ever_responding: (G,) number of different queries that respond in at least one layer.
        spread: (L, G) spread of the covering queries; NaN with fewer than two.
        iou: (L, G) IoU of the matched query with the object.
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
        """Concatenate the objects of several images.

        Raises:
            ValueError: ``parts`` is empty.
        """
        if not parts:
            raise ValueError('QueryStatistics: expected at least one image')
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts], -1) for f in fields(cls)))

    def summary(self) -> dict[str, float | int | list[float]]:
        """Means over the objects, some as a list over the layers; without objects, only their number 0."""
        count = len(self.distinct)
        if not count:
            return dict(objects=0)
        with np.errstate(invalid='ignore'):
            # An object with fewer than two covering queries has no spread, and is left out.
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
        cls_logits: (L, 1, Q, K) logits of every decoder layer, one column per class, -inf for classes that are not
            offered; queries in the order of selection.
        boxes: (L, 1, Q, 4) normalised cxcywh.
        targets: Ground truth of the image.
        min_iou: Minimum IoU at which a query covers an object.
        **cost_weights: Weights of :func:`~dinor1.models.losses.matching.matching_cost`.
    """
    num_layers = len(cls_logits)
    count = sum(targets.counts)
    if not count:
        none, empty = np.zeros(0, dtype=np.int64), np.zeros((num_layers, 0), dtype=np.int64)
        return QueryStatistics(empty, none, empty, empty, none, empty.astype(np.float64), empty.astype(np.float64))
    # Match queries to objects in every layer.
    match = hungarian_match(matching_cost(cls_logits, boxes, targets, **cost_weights), targets)
    # With fewer queries than objects, objects without a match get the index Q and an IoU of 0.
    matched = torch.full((num_layers, count), cls_logits.shape[2])
    matched[match.stage.cpu(), match.target.cpu()] = match.query.cpu()

    # Find the queries that cover an object, and those that respond to it.
    scale = targets.scale[0]
    truth = box_convert(targets.boxes[0, :count] * scale, 'cxcywh', 'xyxy')
    found = box_convert(boxes[:, 0].float() * scale, 'cxcywh', 'xyxy')
    overlap = torch.stack([box_iou(layer, truth) for layer in found])  # (L, Q, G)
    covers = overlap >= min_iou
    labels = targets.positive_map[0, :count].argmax(-1)
    responds = covers & (cls_logits[:, 0].argmax(-1)[..., None] == labels)

    # Compute the spread of the covering queries.
    weights = covers.float()
    number = weights.sum(1)
    centres = boxes[:, 0, :, :2].float() * scale[:2]
    mean = torch.einsum('lqg,lqc->lgc', weights, centres) / number.clamp(min=1)[..., None]
    square = ((centres[:, :, None] - mean[:, None]).square().sum(-1) * weights).sum(1) / number.clamp(min=1)
    area = (targets.boxes[0, :count, 2:] * scale[2:]).prod(-1)
    spread = (square / area.clamp(min=1e-12)).sqrt().masked_fill(number < 2, float('nan'))

    # Read the IoU of the matched queries.
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
