"""GRQO and ranking for the head of MMDetection's DINO, a detector without prompts; not part of the paper."""

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import DINOHead
from mmdet.structures import SampleList
from torch import Tensor

from dinor1.registry import MODELS

from ..losses import GRQOLoss, hungarian_match, matching_cost, pad_targets
from .cost_weights import cost_weights


@MODELS.register_module()
class DINOGRQOHead(DINOHead):
    """``DINOHead`` with GRQO and the ranking of the queries of each class as additional losses.

    The reward uses the costs of ``train_cfg.assigner`` and their weights: ``FocalLossCost``, ``BBoxL1Cost`` and
    ``IoUCost('giou')``. As in Grounding DINO, its focal term sums over all classes, not only over the object's class.

    Args:
        loss_grqo: Config of :class:`~dinor1.models.losses.GRQOLoss`; None: no GRQO.
        loss_ranking: Config of :class:`~dinor1.models.losses.PromptRankingLoss`, with classes for prompts, or of a loss
            with the same arguments; None: no such loss.
        **kwargs: Arguments of ``DINOHead``.
    """

    def __init__(self, loss_grqo: dict | None = None, loss_ranking: dict | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss_grqo: GRQOLoss | None = None if loss_grqo is None else MODELS.build(loss_grqo)
        self.loss_ranking: Any = None if loss_ranking is None else MODELS.build(loss_ranking)

    @property
    def active_grqo(self) -> GRQOLoss | None:
        """The GRQO loss, or None if it is not configured or not enabled."""
        return self.loss_grqo if self.loss_grqo is not None and self.loss_grqo.enabled else None

    def loss(
        self,
        hidden_states: Tensor,
        references: list[Tensor],
        enc_outputs_class: Tensor,
        enc_outputs_coord: Tensor,
        batch_data_samples: SampleList,
        dn_meta: dict[str, int],
        selected_logits: Tensor | None = None,
        ref_logits: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """MMDetection's losses, plus those of GRQO while it is enabled, and the ranking of queries.

        Args:
            hidden_states: (L, bs, num_dn + Q, C), denoising queries first.
            references: 1 + L tensors (bs, num_dn + Q, 4), normalised cxcywh.
            enc_outputs_class: (bs, Q, num_classes) logits of the selected tokens.
            enc_outputs_coord: (bs, Q, 4) boxes of the selected tokens, normalised cxcywh.
            batch_data_samples: Samples with ``gt_instances``.
            dn_meta: MMDetection's layout of the denoising queries.
            selected_logits: (bs, Q) objectness logits of the selected tokens, in descending order; needed by GRQO.
            ref_logits: (bs, Q) objectness logits of the reference model at the same tokens; needed by GRQO's KL.

        Returns:
            Losses under MMDetection's names, the result of :class:`~dinor1.models.losses.GRQOLoss`, and with a prefix
            for each decoder layer and the encoder ``loss_ranking``.
        """
        # Compute MMDetection's losses.
        cls_logits, boxes = self(hidden_states, references)
        instances = [sample.gt_instances for sample in batch_data_samples]
        metas = [sample.metainfo for sample in batch_data_samples]
        losses = self.loss_by_feat(cls_logits, boxes, enc_outputs_class, enc_outputs_coord, instances, metas, dn_meta)
        grqo, ranking = self.active_grqo, self.loss_ranking
        if grqo is None and ranking is None:
            return losses
        # Match the decoder layers, and the encoder if its queries are ranked.
        weights = cost_weights(self.assigner.match_costs, 'FocalLossCost')
        num_layers, num_dn = len(cls_logits), dn_meta['num_denoising_queries']
        one_hot = [F.one_hot(i.labels, self.num_classes).float() for i in instances]
        targets = pad_targets([i.bboxes for i in instances], one_hot, [m['img_shape'] for m in metas])
        cls_logits, boxes = cls_logits[:, :, num_dn:], boxes[:, :, num_dn:]
        if ranking is not None:
            cls_logits = torch.cat([cls_logits, enc_outputs_class[None]])
            boxes = torch.cat([boxes, enc_outputs_coord[None]])
        with torch.set_grad_enabled(grqo is not None):
            cost = matching_cost(cls_logits, boxes, targets, **weights)
        with torch.no_grad():
            match = hungarian_match(cost, targets)
        # Rank the queries of each class.
        if ranking is not None:
            offered = torch.ones_like(targets.verified)
            names = [*(f'd{i}.' for i in range(num_layers - 1)), '', 'enc_']
            values = ranking(cls_logits, boxes, targets, match, offered)
            losses |= {f'{name}loss_ranking': value for name, value in zip(names, values, strict=True)}
        # Add GRQO, from the cost and the matching of the decoder layers.
        if grqo is not None:
            losses |= grqo(cost[:num_layers], targets, match, enc_outputs_class, selected_logits, ref_logits)
        return losses
