"""The head of DINO-R1 with losses that compare queries or exemplars within groups; not part of the paper."""

from typing import Any

import torch
from torch import Tensor

from dinor1.registry import MODELS
from dinor1.structures import DetectorOutput
from dinor1.utils.errors import InputError

from ..losses import ExemplarColumns, Match, Targets
from ..prompts import PromptsConfig
from .dino_r1_head import DINOR1Head


@MODELS.register_module()
class GroupRelativeHead(DINOR1Head):
    """``DINOR1Head`` with up to three additional losses. Without them it is that head.

    None of them has weights, so that checkpoints of both heads fit each other.

    Args:
        loss_ranking: Config of :class:`~dinor1.models.losses.PromptRankingLoss`, or of a loss with the same arguments;
            None: no such loss.
        loss_one_to_many: Config of :class:`~dinor1.models.losses.OneToManyLoss`, which needs a decoder with
            ``layer_order='cross_first'``; None: no such loss.
        loss_exemplar_group: Config of :class:`~dinor1.models.losses.ExemplarGroupLoss`; None: no such loss.
        **kwargs: Arguments of :class:`DINOR1Head`.
    """

    def __init__(
        self,
        *args: Any,
        loss_ranking: dict | None = None,
        loss_one_to_many: dict | None = None,
        loss_exemplar_group: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.loss_ranking: Any = None if loss_ranking is None else MODELS.build(loss_ranking)
        self.loss_one_to_many: Any = None if loss_one_to_many is None else MODELS.build(loss_one_to_many)
        self.loss_exemplar_group: Any = None if loss_exemplar_group is None else MODELS.build(loss_exemplar_group)

    @property
    def exemplar_group_size(self) -> int:
        """Number of exemplars per class for ``loss_exemplar_group``; 0: none."""
        return 0 if self.loss_exemplar_group is None else int(self.loss_exemplar_group.group_size)

    def check_settings(self, prompts: PromptsConfig, aggregates: bool, cross_first: bool) -> None:
        """See :meth:`DINOR1Head.check_settings`; the additional losses are checked too."""
        super().check_settings(prompts, aggregates, cross_first)
        if self.loss_one_to_many is not None and not cross_first:
            raise InputError(
                'model.bbox_head.loss_one_to_many supervises the queries before they attend to each other; set '
                "model.decoder.layer_order='cross_first'"
            )
        if self.loss_exemplar_group is not None and (
            aggregates or prompts.prompt_gather == 'world' or prompts.refiner is not None
        ):
            raise InputError(
                'model.bbox_head.loss_exemplar_group compares the embeddings of single boxes of one process; set it to '
                "None, or use the VisualPromptEncoder, prompt_gather='device' and refiner=None"
            )

    def added_losses(
        self,
        output: DetectorOutput,
        stage_logits: Tensor,
        stage_boxes: Tensor,
        targets: Targets,
        match: Match,
        columns: ExemplarColumns | None,
    ) -> dict[str, Tensor]:
        """Losses with a prefix for each decoder layer.

        Args:
            output: Output of the decoder, with denoising queries.
            stage_logits: (L + 1, bs, N, K) of the selected queries, decoder layers first, then the encoder.
            stage_boxes: (L + 1, bs, N, 4) normalised cxcywh.
            targets: Ground truth.
            match: One-to-one assignment of the L + 1 stages.
            columns: Exemplars for ``loss_exemplar_group``; None: there are none, and no such loss.

        Returns:
            ``loss_ranking``, also of the encoder as ``enc_loss_ranking``, ``loss_one_to_many``,
            ``loss_exemplar_group``.
        """
        num_layers, num_queries = len(stage_logits) - 1, stage_logits.shape[2]
        num_dn = output.hidden_states.shape[2] - num_queries
        names = [f'd{i}.' for i in range(num_layers - 1)] + ['']
        losses: dict[str, Tensor] = {}
        # Rank the queries of each prompt.
        if self.loss_ranking is not None:
            values = self.loss_ranking(stage_logits, stage_boxes, targets, match, output.prompts.mask)
            losses |= {f'{name}loss_ranking': value for name, value in zip([*names, 'enc_'], values, strict=True)}
        # Supervise the branch one to many.
        if self.loss_one_to_many is not None:
            values = self._one_to_many_losses(output, num_dn, targets)
            losses |= {f'{name}loss_one_to_many': value for name, value in zip(names, values, strict=True)}
        # Score the queries with other exemplars.
        if self.loss_exemplar_group is not None and columns is not None:
            hidden_states = output.hidden_states[:, :, num_dn:]
            values = self._exemplar_group_losses(hidden_states, columns, targets, match, output.prompts.mask)
            losses |= {f'{name}loss_exemplar_group': value for name, value in zip(names, values, strict=True)}
        return losses

    def _one_to_many_losses(self, output: DetectorOutput, num_dn: int, targets: Targets) -> Tensor:
        """Losses (L,) of the states before the self-attention of each decoder layer, assigned one to many."""
        # Predict with the heads of the layers, and assign up to a few queries to every object.
        assert output.branch_states is not None, 'DINOR1 checks the order of the decoder'
        states, references = output.branch_states[:, :, num_dn:], output.references[:, :, num_dn:]
        cls_logits, boxes = self(output._replace(hidden_states=states, references=references))
        match, weights = self.loss_one_to_many(cls_logits, boxes, targets)
        weights = weights.float()
        # Weigh the positives of the classification; all others are negatives of weight 1.
        focal = self._focal(cls_logits, targets, match, output.prompts.mask)
        scale = torch.ones_like(focal)
        own_prompts = targets.positive_map[match.image, match.target] > 0
        scale[match.stage, match.image, match.query] = torch.where(own_prompts, weights[:, None], 1.0)
        total = (focal * scale).sum(dim=(1, 2, 3))
        # Add the box losses, and divide by the number of pairs. The product with 0 keeps the boxes in the graph.
        total = total + boxes.float().sum(dim=(1, 2, 3)) * 0
        if len(match.stage):
            l1, giou = self._box_losses(boxes, targets, match)
            total = total.index_add(0, match.stage, weights * (l1 + giou))
        count = torch.zeros_like(total).index_add(0, match.stage, torch.ones_like(weights))
        losses: Tensor = self.loss_one_to_many.loss_weight * total / self.mean_count(count).clamp(min=1)
        return losses

    def _exemplar_group_losses(
        self,
        hidden_states: Tensor,
        columns: ExemplarColumns,
        targets: Targets,
        match: Match,
        prompt_mask: Tensor,
    ) -> Tensor:
        """Losses (L,) of the exemplars that score the queries (L, bs, N, C) without being offered as prompts."""
        # Score the queries; the K classes of the exemplars are those of the first prompts.
        num_layers, (bs, num_classes, size, _) = len(hidden_states), columns.embeddings.shape
        exemplars = columns.embeddings.flatten(1, 2)
        valid = columns.valid.flatten().expand(bs, -1)
        logits = torch.stack([self.cls_branches[i](hidden_states[i], exemplars, valid) for i in range(num_layers)])
        logits = logits.float().masked_fill(~valid[:, None], 0.0).unflatten(-1, (num_classes, size))
        # Give every exemplar the assignment of its class.
        offered, verified = prompt_mask[:, :num_classes], targets.verified[:, :num_classes]
        positive = torch.zeros(logits.shape[:-1], dtype=torch.bool, device=logits.device)
        decoder = match.stage < num_layers
        stage, image, query, target = (index[decoder] for index in match)
        positive[stage, image, query] = targets.positive_map[image, target][:, :num_classes] > 0
        positive = positive & offered[:, None]
        # Compute the focal loss of all columns.
        labels = positive[..., None].expand_as(logits).to(logits.dtype)
        focal = self.loss_cls(logits.flatten(-2), labels.flatten(-2), reduction_override='none')
        losses: Tensor = self.loss_exemplar_group(
            logits, focal.unflatten(-1, (num_classes, size)), positive, offered & verified, columns
        )
        return losses
