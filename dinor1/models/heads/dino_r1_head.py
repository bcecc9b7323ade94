"""The contrastive head: similarity of queries to prompts, box regression, and batched set-prediction losses."""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import Linear
from mmdet.models.layers import inverse_sigmoid
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmdet.utils import reduce_mean
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from dinor1.registry import MODELS, TASK_UTILS
from dinor1.structures import DenoisingGroups, DetectorOutput, PromptSet
from dinor1.utils.errors import InputError

from ..losses import (
    ExemplarColumns,
    Exemplars,
    GRQOLoss,
    InstanceContrast,
    Match,
    Targets,
    denoising_match,
    hungarian_match,
    matching_cost,
)
from ..prompts import PromptsConfig
from ..transformer.similarity import PromptSimilarity
from .cost_weights import cost_weights


@MODELS.register_module()
class DINOR1Head(BaseModule):
    """Grounding DINO's head for visual and text prompts, with GRQO.

    Parameter names are those of MMDetection. Matching and losses are computed in one batch over (stage, image, query),
    where the stages are the decoder layers and the encoder, and in another batch for the denoising queries; the values
    equal MMDetection's.

    Args:
        embed_dims: Width C.
        num_pred_layer: Number of decoder layers plus one for the encoder stage.
        num_classes: Number of label embeddings of the denoising queries.
        loss_cls: Config of the classification loss, a sigmoid focal loss.
        loss_bbox: Config of the loss on normalised cxcywh boxes.
        loss_iou: Config of the loss on xyxy boxes.
        loss_grqo: Config of :class:`~dinor1.models.losses.GRQOLoss`; None: only the supervised losses.
        contrastive_cfg: ``log_scale`` and ``bias`` of :class:`~dinor1.models.transformer.PromptSimilarity`.
        query_map: Map and normalise queries and tokens before they are compared with the prompts, with a map of its own
            for every stage; both kinds of prompts use the same map.
        instance_contrast: Settings of :class:`~dinor1.models.losses.InstanceContrast`; None: no such loss.
        sync_cls_avg_factor: Average the number of objects over the devices for the classification loss too.
        train_cfg: ``assigner``, which may use the costs ``BinaryFocalLossCost``, ``BBoxL1Cost`` and
            ``IoUCost('giou')``; ``unverified_weight`` in [0, 1], the weight of the negatives of a prompt in an image
            whose instances of its class may lack boxes: with 0, the default, nothing lowers the scores there. None:
            no training.
        test_cfg: ``max_per_img``.
        **kwargs: ``init_cfg`` of MMEngine's ``BaseModule``.

    Raises:
        InputError: a match cost is not supported, or ``unverified_weight`` is not in [0, 1].
    """

    def __init__(
        self,
        embed_dims: int,
        num_pred_layer: int,
        num_classes: int,
        *,
        loss_cls: dict,
        loss_bbox: dict,
        loss_iou: dict,
        loss_grqo: dict | None = None,
        contrastive_cfg: dict | None = None,
        query_map: bool = False,
        instance_contrast: dict | None = None,
        sync_cls_avg_factor: bool = False,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.sync_cls_avg_factor, self.test_cfg = num_classes, sync_cls_avg_factor, test_cfg or {}
        # Build the losses.
        self.unverified_weight = (train_cfg or {}).get('unverified_weight', 0.0)
        if not 0 <= self.unverified_weight <= 1:
            raise InputError(f'train_cfg: unverified_weight must be in [0, 1], got {self.unverified_weight}')
        if train_cfg:
            self.cost_weights = cost_weights(TASK_UTILS.build(train_cfg['assigner']).match_costs)
        self.loss_cls: Any = MODELS.build(loss_cls)
        self.loss_bbox: Any = MODELS.build(loss_bbox)
        self.loss_iou: Any = MODELS.build(loss_iou)
        self.loss_grqo: GRQOLoss | None = None if loss_grqo is None else MODELS.build(loss_grqo)
        # Build one classification and one box branch per stage.
        contrastive_cfg = contrastive_cfg or dict(log_scale='auto', bias=True)
        width = embed_dims if query_map else None
        self.cls_branches = nn.ModuleList(
            PromptSimilarity(**contrastive_cfg, query_map=width) for _ in range(num_pred_layer)
        )
        self.reg_branches = nn.ModuleList(_box_branch(embed_dims) for _ in range(num_pred_layer))
        self.instance_contrast: InstanceContrast | None = None
        if instance_contrast is not None:
            self.instance_contrast = MODELS.build(
                dict(type='InstanceContrast', embed_dims=embed_dims) | instance_contrast
            )

    def init_weights(self) -> None:
        """Initialise the box branches as Grounding DINO does: zero in the last layer, so no refinement at first."""
        for branch in self.reg_branches:
            last: Any = branch.get_submodule('4')
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    @property
    def active_grqo(self) -> GRQOLoss | None:
        """The GRQO loss, or None if it is not configured or not enabled."""
        return self.loss_grqo if self.loss_grqo is not None and self.loss_grqo.enabled else None

    @property
    def exemplar_group_size(self) -> int:
        """Number of exemplars per class that :meth:`added_losses` needs besides the prompts; 0: none."""
        return 0

    def check_settings(self, prompts: PromptsConfig, aggregates: bool, cross_first: bool) -> None:
        """Check that the losses fit the other parts of the detector.

        Args:
            prompts: Settings of the prompts.
            aggregates: Whether the prompt encoder encodes several boxes together.
            cross_first: Whether the queries of the decoder attend to the image before they attend to each other.

        Raises:
            InputError: a loss needs other settings.
        """
        if self.instance_contrast is not None and (aggregates or prompts.prompt_gather == 'world'):
            raise InputError(
                'model.bbox_head.instance_contrast compares single exemplars with their objects, and the prompts are '
                "means over boxes; set it to None, or use the VisualPromptEncoder and prompt_gather='device'"
            )
        if prompts.exemplar_policy is not None and not self.exemplar_group_size:
            raise InputError(
                'model.prompts.exemplar_policy is trained by model.bbox_head.loss_exemplar_group; set it, or set '
                'exemplar_policy=None'
            )

    def loss(
        self,
        output: DetectorOutput,
        targets: Targets,
        ref_logits: Tensor | None = None,
        exemplars: Exemplars | None = None,
        columns: ExemplarColumns | None = None,
    ) -> dict[str, Tensor]:
        """All losses of one batch.

        Args:
            output: Output of the decoder, with denoising queries.
            targets: Ground truth.
            ref_logits: (bs, N) objectness logits of the reference model at the selected tokens, for GRQO.
            exemplars: The objects that the prompts were made of, for ``instance_contrast``.
            columns: Other exemplars of the classes, for ``loss_exemplar_group`` of
                :class:`~dinor1.models.heads.GroupRelativeHead`.

        Returns:
            Losses under MMDetection's names, the result of :class:`~dinor1.models.losses.GRQOLoss` if enabled, with
            gates in the encoder ``gate0.loss_cls``, ``gate1.loss_cls`` and so on, and those of :meth:`added_losses`.
        """
        # Predict logits and boxes of all decoder layers.
        grqo, selection, prompt_mask = self.active_grqo, output.selection, output.prompts.mask
        denoising = output.denoising or DenoisingGroups(0, 0)
        cls_logits, boxes = self(output)
        num_layers, num_dn = len(cls_logits), denoising.num_queries

        # Match the decoder layers and the encoder stage to the ground truth, and compute their losses.
        stage_logits = torch.cat([cls_logits[:, :, num_dn:], selection.cls_logits[None]])
        stage_boxes = torch.cat([boxes[:, :, num_dn:], selection.boxes[None]])
        with torch.set_grad_enabled(grqo is not None):
            cost = matching_cost(stage_logits, stage_boxes, targets, **self.cost_weights)
        match = hungarian_match(cost, targets)
        names = [f'd{i}.' for i in range(num_layers - 1)] + ['', 'enc_']
        losses = self._set_losses(stage_logits, stage_boxes, targets, match, prompt_mask, names)

        # Compute the losses of the denoising queries, whose assignment is known without matching.
        dn_match = denoising_match(targets, num_layers, denoising)
        names = [f'd{i}.dn_' for i in range(num_layers - 1)] + ['dn_']
        losses |= self._set_losses(
            cls_logits[:, :, :num_dn], boxes[:, :, :num_dn], targets, dn_match, prompt_mask, names
        )
        # Supervise the gates of the encoder at the selected tokens, with the assignment of the encoder stage.
        if output.gate_logits is not None:
            losses |= self._gate_losses(output.gate_logits, targets, match, prompt_mask, num_layers)
        # Compare the queries of the exemplars with the prompts.
        if self.instance_contrast is not None and exemplars is not None:
            hidden_states = output.hidden_states[:, :, num_dn:]
            values = self.instance_contrast(hidden_states, match, exemplars)
            names = [f'd{i}.' for i in range(num_layers - 1)] + ['']
            losses |= {f'{name}loss_instance': value for name, value in zip(names, values, strict=True)}
        # Add the losses of subclasses.
        losses |= self.added_losses(output, stage_logits, stage_boxes, targets, match, columns)
        # Add GRQO, from the cost and the matching of the decoder layers.
        if grqo is not None:
            losses |= grqo(cost[:num_layers], targets, match, selection.cls_logits, selection.objectness, ref_logits)
        return losses

    def added_losses(
        self,
        output: DetectorOutput,
        stage_logits: Tensor,
        stage_boxes: Tensor,
        targets: Targets,
        match: Match,
        columns: ExemplarColumns | None,
    ) -> dict[str, Tensor]:
        """Losses that a subclass adds to those of the detector; none here.

        Args:
            output: Output of the decoder, with denoising queries.
            stage_logits: (L + 1, bs, N, K) of the selected queries, decoder layers first, then the encoder.
            stage_boxes: (L + 1, bs, N, 4) normalised cxcywh.
            targets: Ground truth.
            match: One-to-one assignment of the L + 1 stages.
            columns: Other exemplars of the classes; None: there are none.
        """
        return {}

    def _set_losses(
        self,
        cls_logits: Tensor,
        boxes: Tensor,
        targets: Targets,
        match: Match,
        prompt_mask: Tensor,
        names: list[str],
    ) -> dict[str, Tensor]:
        """Focal, L1 and GIoU loss of S stages.

        Args:
            cls_logits: (S, bs, Q, K); -inf where a prompt is not offered.
            boxes: (S, bs, Q, 4) normalised cxcywh.
            targets: Ground truth.
            match: Matched pairs, the same number in every stage.
            prompt_mask: (bs, K) True = valid.
            names: S prefixes for the names of the losses.

        Returns:
            For each prefix ``loss_cls``, ``loss_bbox`` and ``loss_iou``, scalars.
        """
        # Count the objects that the losses are averaged over, and compute the classification loss.
        count, cls_count = self._counts(cls_logits, match)
        loss_cls = self._class_losses(cls_logits, targets, match, prompt_mask) / cls_count

        # Compute the box losses. The product with 0 keeps the boxes in the graph without any match, as DDP requires.
        loss_bbox = loss_iou = boxes.float().sum(dim=(1, 2, 3)) * 0
        if len(match.stage):
            l1, giou = self._box_losses(boxes, targets, match)
            loss_bbox = loss_bbox.index_add(0, match.stage, l1) / count
            loss_iou = loss_iou.index_add(0, match.stage, giou) / count

        # Name the losses of each stage.
        losses = {}
        for i, name in enumerate(names):
            losses[f'{name}loss_cls'] = loss_cls[i]
            losses[f'{name}loss_bbox'] = loss_bbox[i]
            losses[f'{name}loss_iou'] = loss_iou[i]
        return losses

    def _counts(self, cls_logits: Tensor, match: Match) -> tuple[Tensor, Tensor]:
        """Number of objects, (1,), that box losses and classification losses of the stages (S, ...) are divided by."""
        own_count = cls_logits.new_tensor([len(match.stage) / len(cls_logits)], dtype=torch.float32)
        count = self.mean_count(own_count).clamp(min=1)
        return count, count if self.sync_cls_avg_factor else own_count.clamp(min=1)

    def _box_losses(self, boxes: Tensor, targets: Targets, match: Match) -> tuple[Tensor, Tensor]:
        """L1 and GIoU loss (n,) of the n matched pairs, at least one; arguments as in :meth:`_set_losses`."""
        predicted = boxes[match.stage, match.image, match.query].float()
        wanted = targets.boxes[match.image, match.target].float()
        scale = targets.scale[match.image]
        l1: Tensor = self.loss_bbox(predicted, wanted, reduction_override='none').sum(-1)
        giou: Tensor = self.loss_iou(
            bbox_cxcywh_to_xyxy(predicted) * scale,
            bbox_cxcywh_to_xyxy(wanted) * scale,
            reduction_override='none',
        )
        return l1, giou

    def _class_losses(self, cls_logits: Tensor, targets: Targets, match: Match, prompt_mask: Tensor) -> Tensor:
        """Sum (S,) of the focal loss of each stage; arguments as in :meth:`_set_losses`."""
        return self._focal(cls_logits, targets, match, prompt_mask).sum(dim=(1, 2, 3))

    def _focal(self, cls_logits: Tensor, targets: Targets, match: Match, prompt_mask: Tensor) -> Tensor:
        """Focal loss (S, bs, Q, K) of every query and prompt; arguments as in :meth:`_set_losses`."""
        # Prompts that are not offered have logit -inf, which would give NaN: they are left out.
        logits = cls_logits.float().masked_fill(~prompt_mask[:, None], 0.0)
        labels = torch.zeros_like(logits)
        labels[match.stage, match.image, match.query] = targets.positive_map[match.image, match.target].to(labels)
        # A query without a match may show an instance without a box if labels are not verified: it counts less. A class
        # that the image was not annotated for has no negatives.
        unverified = targets.present() * self.unverified_weight
        negative_weight = torch.where(targets.verified, 1.0, unverified)[:, None]
        weight = torch.where(labels > 0, 1.0, negative_weight) * prompt_mask[:, None]
        focal: Tensor = self.loss_cls(logits, labels, reduction_override='none') * weight
        return focal

    def _gate_losses(
        self, gate_logits: Tensor, targets: Targets, match: Match, prompt_mask: Tensor, encoder_stage: int
    ) -> dict[str, Tensor]:
        """Focal loss of the gate logits (G, bs, N, K) of the encoder at the selected tokens."""
        # Give every gate the assignment of the encoder stage.
        own = match.stage == encoder_stage
        image, query, target = (index[own] for index in (match.image, match.query, match.target))
        num_gates = len(gate_logits)
        stage = torch.arange(num_gates, device=image.device).repeat_interleave(len(image))
        repeated = Match(stage, image.repeat(num_gates), query.repeat(num_gates), target.repeat(num_gates))
        # Compute one loss per gate.
        _, count = self._counts(gate_logits, repeated)
        losses = self._class_losses(gate_logits, targets, repeated, prompt_mask) / count
        return {f'gate{i}.loss_cls': loss for i, loss in enumerate(losses)}

    def mean_count(self, own_count: Tensor) -> Tensor:
        """Number of objects that the box losses are divided by.

        It is averaged over the devices, as in MMDetection, so that every object has the same weight.

        Args:
            own_count: (1,) number of objects of this process.
        """
        count: Tensor = reduce_mean(own_count)
        return count

    def predict(
        self,
        output: DetectorOutput,
        prompt_sets: Sequence[PromptSet],
        batch_data_samples: SampleList,
        rescale: bool = True,
    ) -> list[InstanceData]:
        """Detections of the last decoder layer.

        Args:
            output: Output of the decoder.
            prompt_sets: The prompts of each image, with the names of their classes.
            batch_data_samples: Image sizes and scale factors.
            rescale: Return pixels of the original image instead of the network input.

        Returns:
            Per image ``bboxes`` (n, 4) pixel xyxy, ``scores`` (n,) in [0, 1] and ``labels`` (n,), indices into the
            prompt set's names, by descending score; n <= ``test_cfg.max_per_img``.
        """
        cls_logits, boxes = self(output, layers=[len(output.hidden_states) - 1])
        found = []
        for logits, box, prompts, sample in zip(cls_logits[0], boxes[0], prompt_sets, batch_data_samples, strict=True):
            class_map = prompts.class_map()[:, prompts.reported].float()
            scores = logits[:, : len(prompts.embeddings)].float().sigmoid() @ class_map
            found.append(self.select_detections(scores, box, prompts, sample.metainfo, rescale))
        return found

    def forward(self, output: DetectorOutput, layers: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Predictions of decoder layers.

        Args:
            output: Output of the decoder.
            layers: Indices of decoder layers. Default: all.

        Returns:
            Logits (len(layers), bs, Q, K) and boxes (len(layers), bs, Q, 4), normalised cxcywh.
        """
        hidden_states, references, prompts = output.hidden_states, output.references, output.prompts
        layers = range(len(hidden_states)) if layers is None else layers
        cls_logits = [self.cls_branches[i](hidden_states[i], prompts.embeddings, prompts.mask) for i in layers]
        # Each layer refines the box of the layer before it, which receives gradients: DINO's "look forward twice".
        boxes = [(self.reg_branches[i](hidden_states[i]) + inverse_sigmoid(references[i])).sigmoid() for i in layers]
        return torch.stack(cls_logits), torch.stack(boxes)

    def select_detections(
        self, scores: Tensor, boxes: Tensor, prompts: PromptSet, img_meta: dict, rescale: bool
    ) -> InstanceData:
        """The highest scores over all pairs of query and class of one image.

        Args:
            scores: (Q, R) of the reported classes, in [0, 1].
            boxes: (Q, 4) normalised cxcywh.
            prompts: The prompts of the image.
            img_meta: Image size and scale factor.
            rescale: Return pixels of the original image instead of the network input.

        Returns:
            See :meth:`predict`.
        """
        # Take the highest scores.
        reported = prompts.reported
        limit = min(self.test_cfg.get('max_per_img', len(boxes)), scores.numel())
        scores, index = scores.flatten().topk(limit)
        num_reported = max(len(reported), 1)
        # Convert the boxes to pixels.
        height, width = img_meta['img_shape']
        pixels = bbox_cxcywh_to_xyxy(boxes.float()[index // num_reported])
        pixels = pixels * pixels.new_tensor([width, height, width, height])
        if rescale:
            # The pipeline may have padded the image: clip the boxes to the original image.
            pixels = pixels / pixels.new_tensor(img_meta['scale_factor']).repeat(2)
            height, width = img_meta['ori_shape']
        pixels = torch.minimum(pixels.clamp(min=0), pixels.new_tensor([width, height, width, height]))
        return InstanceData(bboxes=pixels, scores=scores, labels=reported[index % num_reported])


def _box_branch(embed_dims: int) -> nn.Sequential:
    """Three linear layers (..., C) -> (..., 4)."""
    hidden = [(Linear(embed_dims, embed_dims), nn.ReLU()) for _ in range(2)]
    return nn.Sequential(*(part for pair in hidden for part in pair), Linear(embed_dims, 4))
