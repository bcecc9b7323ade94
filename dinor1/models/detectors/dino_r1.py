"""DINO-R1: a Grounding DINO that finds objects by example.

C. Pan, W. He, Z. Tu, L. Ren, *DINO-R1: Incentivizing Reasoning Capability in Vision Foundation Models*,
arXiv 2505.24025. Visual prompt embeddings take the place of the text tokens of Grounding DINO (arXiv 2303.05499):

    images -> backbone, neck -> ImageFeatures
    prompts: boxes -> VisualPromptEncoder | names -> language model | bank -> PromptSet -> PromptBatch
    ImageFeatures, PromptBatch -> encoder -> memory, refined prompts
    memory, refined prompts -> select_queries -> QuerySelection -> decoder -> DetectorOutput -> head
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.layers import CdnQueryGenerator
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.structures import (
    DetectorOutput,
    EncoderOutput,
    ImageFeatures,
    PromptBatch,
    Prompts,
    PromptSet,
    QuerySelection,
)
from dinor1.utils.dataclass_config import with_defaults
from dinor1.utils.distributed import RankGather
from dinor1.utils.errors import InputError
from dinor1.utils.file_format import check_format
from dinor1.utils.precision import at_least_float32, full_precision

from ..backbones import check_neck_channels
from ..losses import ExemplarColumns, LanguageAlignment, RelationDistillation, pad_targets
from ..prompts import (
    PromptDraw,
    PromptMemory,
    PromptsConfig,
    TextTable,
    append_hidden,
    build_text_side,
    caption_names,
    class_prompts,
    draw_exemplar_group,
    draw_prompts,
    drawn_prompts,
    encode_boxes,
    encode_exemplars,
    encode_text,
    image_keys,
    offered_boxes,
    positive_maps,
    prompts_per_image,
    redraw_exemplars,
    remembered_prompts,
    split_hidden,
    upgrade_prompt_encoder,
)
from ..transformer import (
    CachedSinePositions,
    DenoisingQueries,
    MSDeformAttention,
    TokenScores,
    TransformerDims,
    denoising_queries,
    flatten_levels,
    score_tokens,
    select_queries,
)
from . import prompt_losses
from .duplicates import duplicate_removal, remove_duplicates
from .reference import ReferenceModel
from .vocabulary_parts import best_of_passes, split_vocabulary


@MODELS.register_module()
class DINOR1(BaseDetector):
    """Detector prompted by boxes, class names, or both.

    Sub-modules and parameters shared with Grounding DINO have MMDetection's names; a checkpoint of Grounding DINO lacks
    ``prompt_encoder.*`` and, with alignment, ``alignment.logit_scale``. A checkpoint stores its format version in
    torch's module version (``_version``); earlier formats are converted when they are loaded.

    Args:
        backbone: Config of the backbone.
        neck: Config of the neck; its width and number of levels come from ``transformer``.
        transformer: A :class:`~dinor1.models.transformer.TransformerDims` or a dict of its fields.
        encoder: Config of the encoder, such as ``dict(type='PromptedEncoder', num_layers=6)``.
        decoder: Config of the decoder, such as ``dict(type='PromptedDecoder', num_layers=6)``.
        bbox_head: Config of the head.
        prompts: A :class:`~dinor1.models.prompts.PromptsConfig` or a dict of its fields.
        num_queries: Number of encoder tokens that become decoder queries.
        positional_encoding: Arguments of ``SinePositionalEncoding``.
        dn_cfg: Arguments of ``CdnQueryGenerator``.
        train_cfg: Training settings of the head: the assigner.
        test_cfg: ``max_per_img``, the maximum number of detections, and ``chunked_size``, the maximum number of classes
            in one pass (-1: all). ``nms``, a dict of
            :class:`~dinor1.models.detectors.duplicates.DuplicateRemoval`, removes duplicates (default: off).
        **kwargs: ``data_preprocessor`` and ``init_cfg`` of MMDetection's ``BaseDetector``.

    Attributes:
        inference_dtype: Autocast dtype outside training, such as ``torch.bfloat16``; None: no autocast. Box refinement,
            sampling locations, and the scores that select queries and rank detections are always computed in float32.
            In training the optimizer wrapper sets the precision.
        reference: The reference model of GRQO, set by :class:`dinor1.engine.ReferenceModelHook`; None: there is none.
        prompt_memory: Prompts of earlier iterations, set by :class:`dinor1.engine.PromptMemoryHook`; None: none.
        prompt_mode: ``visual`` or ``text``: what prompts the current training iteration, set by
            :class:`dinor1.engine.PromptModeHook`.
        rank_gather: Exchange of prompts between processes, set by the Runner for ``prompt_gather='world'``; None: the
            prompts of a training batch are those of its classes.
    """

    _version = 2
    inference_dtype: torch.dtype | None = None
    reference: ReferenceModel | None = None
    prompt_memory: PromptMemory | None = None
    prompt_mode: str = 'visual'
    rank_gather: RankGather | None = None

    def __init__(
        self,
        *,
        backbone: dict,
        neck: dict,
        transformer: TransformerDims | dict,
        encoder: dict,
        decoder: dict,
        bbox_head: dict,
        positional_encoding: dict,
        dn_cfg: dict,
        num_queries: int,
        prompts: PromptsConfig | dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Complete and check the settings.
        dims = with_defaults(transformer, TransformerDims(), 'model.transformer')
        self.prompts_cfg = with_defaults(prompts, PromptsConfig(), 'model.prompts')
        if num_queries < 1:
            raise InputError(f'DINOR1: num_queries must be at least 1, got {num_queries}')
        self.embed_dims, self.num_queries = dims.embed_dims, num_queries
        self.train_cfg, self.test_cfg = train_cfg, test_cfg or {}
        self.duplicate_removal = duplicate_removal(self.test_cfg.get('nms'))

        # Build backbone, neck and head. The head has a branch per decoder layer and one for the encoder's tokens.
        built_decoder = MODELS.build(dict(decoder, dims=dims))
        self.backbone = MODELS.build(backbone)
        check_neck_channels(self.backbone, neck)
        self.neck = MODELS.build(dict(out_channels=dims.embed_dims, num_outs=dims.num_feature_levels) | neck)
        self.bbox_head = MODELS.build(
            dict(
                embed_dims=dims.embed_dims,
                num_pred_layer=built_decoder.num_layers + 1,
                train_cfg=train_cfg,
                test_cfg=self.test_cfg,
            )
            | bbox_head
        )

        # Build the transformer.
        self.positional_encoding = CachedSinePositions(num_feats=dims.embed_dims // 2, **positional_encoding)
        self.encoder = MODELS.build(dict(encoder, dims=dims))
        self.decoder = built_decoder
        self.query_embedding = nn.Embedding(num_queries, dims.embed_dims)
        self.level_embed = nn.Parameter(torch.empty(dims.num_feature_levels, dims.embed_dims))
        self.memory_trans_fc = nn.Linear(dims.embed_dims, dims.embed_dims)
        self.memory_trans_norm = build_norm_layer(dims.norm_cfg, dims.embed_dims)[1]

        # Build the prompt encoders and the optional parts around them.
        self.prompt_encoder = MODELS.build(dict(self.prompts_cfg.encoder, dims=dims))
        if self.prompt_encoder.source == 'encoder' and encoder.get('encoder_fusion', 'full') != 'none':
            raise InputError(
                "model.prompts.encoder.source='encoder' reads the output of the encoder, which must not depend on the "
                "prompts; set model.encoder.encoder_fusion='none', or source='neck'"
            )
        if self.bbox_head.instance_contrast is not None and (
            self.prompt_encoder.aggregates or self.prompts_cfg.prompt_gather == 'world'
        ):
            raise InputError(
                'model.bbox_head.instance_contrast compares single exemplars with their objects, and the prompts are '
                "means over boxes; set it to None, or use the VisualPromptEncoder and prompt_gather='device'"
            )
        if self.bbox_head.loss_one_to_many is not None and not built_decoder.cross_first:
            raise InputError(
                'model.bbox_head.loss_one_to_many supervises the queries before they attend to each other; set '
                "model.decoder.layer_order='cross_first'"
            )
        if self.bbox_head.loss_exemplar_group is not None and (
            self.prompt_encoder.aggregates
            or self.prompts_cfg.prompt_gather == 'world'
            or self.prompts_cfg.refiner is not None
        ):
            raise InputError(
                'model.bbox_head.loss_exemplar_group compares the embeddings of single boxes of one process; set it to '
                "None, or use the VisualPromptEncoder, prompt_gather='device' and refiner=None"
            )
        self.exemplar_policy: Any = None
        if self.prompts_cfg.exemplar_policy is not None:
            if self.bbox_head.loss_exemplar_group is None:
                raise InputError(
                    'model.prompts.exemplar_policy is trained by model.bbox_head.loss_exemplar_group; set it, or set '
                    'exemplar_policy=None'
                )
            self.exemplar_policy = MODELS.build(dict(self.prompts_cfg.exemplar_policy, embed_dims=dims.embed_dims))
        self.language_model: Any = None
        self.text_feat_map: Any = None
        self.alignment: LanguageAlignment | None = None
        self.relation_distill: RelationDistillation | None = None
        self.prompt_refiner: Any = None
        if self.prompts_cfg.text_side is not None:
            self.language_model, self.text_feat_map = build_text_side(self.prompts_cfg.text_side, dims.embed_dims)
            self.text_feat_map.requires_grad_(self.prompts_cfg.trains_text)
            self.text_table, self.raw_text_table = TextTable(), TextTable()
        if self.prompts_cfg.alignment is not None:
            self.alignment = MODELS.build(dict(type='LanguageAlignment') | self.prompts_cfg.alignment)
            if self.alignment.text_gradient:
                self.text_feat_map.requires_grad_(True)
        if self.prompts_cfg.relation_distill is not None:
            target = 'label' if self.language_model is None else 'text'
            self.relation_distill = MODELS.build(
                dict(type='RelationDistillation', target=target) | self.prompts_cfg.relation_distill
            )
        if self.prompts_cfg.refiner is not None:
            self.prompt_refiner = MODELS.build(dict(self.prompts_cfg.refiner, embed_dim=dims.embed_dims))

        # Build the generator of denoising queries.
        self.dn_query_generator = CdnQueryGenerator(
            num_classes=self.bbox_head.num_classes,
            embed_dims=dims.embed_dims,
            num_matching_queries=num_queries,
            **dn_cfg,
        )

    @staticmethod
    def upgrade_state_dict(state_dict: dict[str, Tensor], prefix: str = '') -> bool:
        """Convert weights of an earlier format in place; returns whether anything was converted."""
        return upgrade_prompt_encoder(state_dict, f'{prefix}prompt_encoder.')

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        check_format(local_metadata, self._version)
        self.upgrade_state_dict(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def init_weights(self) -> None:
        """Initialise the weights as Grounding DINO does; the prompt encoder initialises itself."""
        super().init_weights()
        # Initialise all matrices of the transformer, then the attention modules that have their own scheme.
        for part in (self.encoder, self.decoder):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MSDeformAttention):
                module.init_weights()
        # Initialise query selection, embeddings and the map of text embeddings.
        nn.init.xavier_uniform_(self.memory_trans_fc.weight)
        nn.init.xavier_uniform_(self.query_embedding.weight)
        nn.init.normal_(self.level_embed)
        if self.text_feat_map is not None:
            nn.init.xavier_uniform_(self.text_feat_map.weight)
            nn.init.zeros_(self.text_feat_map.bias)

    def train(self, mode: bool = True) -> 'DINOR1':
        """Set the mode of all modules except the language model, which is frozen and stays in evaluation mode."""
        super().train(mode)
        if self.language_model is not None:
            self.language_model.eval()
        return self

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[DetDataSample],
        mode: str = 'tensor',
        prompts: Prompts | None = None,
    ) -> Any:
        """MMDetection's entry point: ``mode`` is ``loss``, ``predict``, ``predict_and_output`` or ``tensor``.

        Args:
            inputs: (bs, 3, H, W) after the data preprocessor.
            data_samples: Image sizes, and in training the ground truth.
            mode: What to compute, see the methods of these names; ``tensor`` returns the raw outputs of the head.
            prompts: What to search for; not used by ``loss``, which draws its own prompts. None: the class names in
                ``text`` of every sample, which MMDetection's inferencers set.

        Raises:
            InputError: there are no prompts and ``mode`` is not ``loss``.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if prompts is None:
            prompts = self._prompts_of(data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples, prompts)
        if mode == 'predict_and_output':
            return self.predict_and_output(inputs, data_samples, prompts)
        if mode == 'tensor':
            return self._forward(inputs, data_samples, prompts)
        raise ValueError(f'mode must be loss, predict, predict_and_output or tensor, got {mode!r}')

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Losses of one batch, prompted by boxes of the batch.

        Args:
            batch_inputs: (bs, 3, H, W) after the data preprocessor.
            batch_data_samples: ``gt_instances`` with ``bboxes`` (m, 4) pixel xyxy and ``labels`` (m,). Images, and
                whole batches, may be without boxes. Images may differ in ``text``, their class names, and in
                ``exhaustive_labels`` and ``annotated_labels``, the classes they were annotated for, see
                :func:`~dinor1.models.prompts.label_scope.batch_scope`.

        Returns:
            Losses by name, and the statistics ``grqo_*``.
        """
        return self.loss_and_output(batch_inputs, batch_data_samples)[0]

    def loss_and_output(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]
    ) -> tuple[dict[str, Tensor], DetectorOutput]:
        """:meth:`loss`, and the decoder's output that the losses were computed from."""
        shapes = [sample.img_shape for sample in batch_data_samples]
        boxes = [sample.gt_instances.bboxes for sample in batch_data_samples]

        # Draw the exemplars of each class of the batch, and encode them.
        text = self.prompt_mode == 'text'
        draw, labels, scope = draw_prompts(
            batch_data_samples,
            self.prompts_cfg,
            pairs=self.prompt_encoder.aggregates,
            text=text,
            memory=self.prompt_memory,
            gather=self.rank_gather,
        )
        if text:
            draw = draw._replace(text=self._text_embeddings(draw))
        features = self.encode_image(batch_inputs, batch_data_samples)
        prompts, instances = self._encode_drawn(features, boxes, shapes, draw, every_box=self._needs_every_box)
        instance_labels = draw.instance_labels(labels, every_box=self._needs_every_box)
        if self.prompt_memory is not None:
            images = image_keys(batch_data_samples)
            self.prompt_memory.pending = remembered_prompts(instances, instance_labels, images, draw.classes)

        # Keep the boxes whose class is offered to their image.
        kept = offered_boxes(labels, draw)
        kept_boxes, kept_labels, dataset_labels = (
            [tensor[keep] for tensor, keep in zip(tensors, kept, strict=True)]
            for tensors in (boxes, labels, [sample.gt_instances.labels for sample in batch_data_samples])
        )

        # Encode, select queries, and put noised ground truth in front of them.
        encoded, columns = self._fuse_with_exemplars(features, prompts, instances, labels)
        selection = self._select(encoded.memory, features, encoded.prompts)
        noised = denoising_queries(self.dn_query_generator, kept_boxes, dataset_labels, shapes)
        output = self._decode(encoded, features, selection, noised)

        # Compute the losses; the reference model scores the same tokens under the same prompts, and with the same
        # gates: a gate that only one of the two opens would change the KL by a jump.
        verified = None if scope is None else scope.exhaustive
        targets = pad_targets(kept_boxes, positive_maps(kept_labels, draw), shapes, verified)
        ref_logits = None
        if self.bbox_head.active_grqo is not None and self.reference is not None:
            ref_draw = draw
            if self.reference.own_draw:
                ref_draw = redraw_exemplars(draw, labels, self.prompts_cfg, pairs=self.prompt_encoder.aggregates)
            shared = (ref_draw, encoded.gates)
            ref_logits = self.reference.logits(selection.tokens, batch_inputs, batch_data_samples, *shared)
        exemplars = None
        if self.bbox_head.instance_contrast is not None and not text:
            exemplars = prompt_losses.exemplars(instances, labels, kept, draw)
        losses = self.bbox_head.loss(output, targets, ref_logits, exemplars, columns)
        if self.alignment is not None:
            losses['loss_alignment'] = prompt_losses.alignment(self, instances, instance_labels, draw, scope)
        if self.relation_distill is not None:
            losses |= prompt_losses.relation(self, instances, instance_labels, draw, scope)
        return losses, output

    @property
    def _needs_every_box(self) -> bool:
        """Whether a loss compares all boxes of the batch, not only the drawn ones."""
        head = self.bbox_head
        losses = (self.alignment, self.relation_distill, head.instance_contrast, head.loss_exemplar_group)
        return any(loss is not None for loss in losses)

    def objectness(
        self,
        tokens: Tensor,
        batch_inputs: Tensor,
        batch_data_samples: list[DetDataSample],
        draw: PromptDraw,
        gates: Sequence[Tensor] = (),
    ) -> Tensor:
        """Highest logit of encoder tokens, for the prompts of the student's classes.

        Args:
            tokens: (bs, N) token indices.
            batch_inputs: (bs, 3, H, W).
            batch_data_samples: The student's samples.
            draw: The student's draw, or one with other exemplars for the same classes.
            gates: Gates of the student's encoder, see :class:`~dinor1.structures.EncoderOutput`; empty: compute them.

        Returns:
            (bs, N).
        """
        shapes = [sample.img_shape for sample in batch_data_samples]
        boxes = [sample.gt_instances.bboxes for sample in batch_data_samples]
        features = self.encode_image(batch_inputs, batch_data_samples)
        prompts, _ = self._encode_drawn(features, boxes, shapes, draw)
        encoded = self._fuse(features, prompts, tokens, gates)
        memory, prompts = encoded.memory, encoded.prompts
        return self.token_scores(memory, features, prompts).objectness.gather(1, tokens)

    def _encode_drawn(
        self,
        features: ImageFeatures,
        boxes: Sequence[Tensor],
        shapes: Sequence[tuple[int, int]],
        draw: PromptDraw,
        every_box: bool = False,
    ) -> tuple[PromptBatch, Tensor]:
        """The drawn prompts, as they are offered to the images, and the embeddings (n, C) of all boxes or pairs."""
        # Encode the exemplars.
        gather = None if self.rank_gather is None or draw.text is not None else self.rank_gather.rows
        embeddings, instances = drawn_prompts(self.prompt_encoder, features, boxes, shapes, draw, every_box, gather)
        if not self.training:
            embeddings = at_least_float32(embeddings)
        # Put text in their place. The products with 0 keep all parameters in the graph, as DDP requires.
        if draw.text is not None:
            embeddings = draw.text.to(embeddings.dtype) + embeddings.sum() * 0
        elif self.prompts_cfg.trains_text:
            embeddings = embeddings + sum(parameter.sum() for parameter in self.text_feat_map.parameters()) * 0
        if self.exemplar_policy is not None:
            embeddings = embeddings + sum(parameter.sum() for parameter in self.exemplar_policy.parameters()) * 0
        if self.prompt_refiner is not None:
            embeddings = self.prompt_refiner(embeddings, draw.names())
        # Append the prompts of earlier iterations.
        if draw.memory is not None:
            own = embeddings.expand(features.batch_size, -1, -1)
            embeddings = torch.cat([own, draw.memory.to(own.dtype)], 1)
        return PromptBatch.shared(embeddings, features.batch_size, draw.offered), instances

    def _fuse(
        self,
        features: ImageFeatures,
        prompts: PromptBatch,
        tokens: Tensor | None = None,
        gates: Sequence[Tensor] = (),
    ) -> EncoderOutput:
        """Encode images with prompts, or return the features if :meth:`encode_image` has encoded them already."""
        if self.prompt_encoder.source == 'encoder':
            return EncoderOutput(features.feat, prompts)
        encoded: EncoderOutput = self.encoder(features, prompts, tokens=tokens, gates=gates)
        return encoded

    def _fuse_with_exemplars(
        self, features: ImageFeatures, prompts: PromptBatch, instances: Tensor, labels: Sequence[Tensor]
    ) -> tuple[EncoderOutput, ExemplarColumns | None]:
        """Encode images with prompts, and with the exemplars of the head's ``loss_exemplar_group``.

        Args:
            features: Features of the batch.
            prompts: Prompts of the batch.
            instances: (n, C) embeddings of all boxes.
            labels: Per image (m,) class indices of its boxes.

        Returns:
            Output of the encoder, which does not depend on these exemplars, and the exemplars after the encoder; None
            without the loss, for a batch without boxes, and in text iterations.
        """
        loss = self.bbox_head.loss_exemplar_group
        if loss is None or self.prompt_mode == 'text' or not any(len(label) for label in labels):
            return self._fuse(features, prompts), None
        group = draw_exemplar_group(labels, loss.group_size)
        extra = instances[group.box.flatten()]
        encoded = self._fuse(features, append_hidden(prompts, extra))
        encoded, refined = split_hidden(encoded, prompts.mask.shape[1])
        columns = ExemplarColumns(refined.unflatten(1, group.box.shape), group.image, group.valid)
        if self.exemplar_policy is not None:
            policy = self.exemplar_policy(extra.unflatten(0, group.box.shape), group.valid)
            columns = columns._replace(policy=policy)
        return encoded, columns

    def _text_embeddings(self, draw: PromptDraw) -> Tensor:
        """Prompts (K, C) of the class names of a draw, as :meth:`text_prompt_set` makes them."""
        names = [str(name) for name in draw.names()]
        if self.prompts_cfg.trains_text:
            return encode_text(names, self.language_model, self.text_feat_map, per_token=False).embeddings
        return class_prompts(self.text_table(names, self.language_model, self.text_feat_map), names).embeddings

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """L feature maps of the neck, each (bs, C, height, width), from images (bs, 3, H, W)."""
        # On a CPU, convolutions are faster with channels last; their outputs keep the layout of the input.
        if batch_inputs.device.type == 'cpu':
            batch_inputs = batch_inputs.contiguous(memory_format=torch.channels_last)
        return self.neck(self.backbone(batch_inputs))

    def encode_image(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> ImageFeatures:
        """Multi-level features for ``batch_inputs`` (bs, 3, H, W), flattened.

        They are those of the neck; or those of the encoder, if the prompt encoder reads these.
        """
        with self._inference_precision():
            features = flatten_levels(
                self.extract_feat(batch_inputs),
                [sample.img_shape for sample in batch_data_samples],
                batch_data_samples[0].batch_input_shape,
                self.positional_encoding,
                self.level_embed,
            )
            if self.prompt_encoder.source == 'neck':
                return features
            # Such an encoder does not depend on its prompts: any will do.
            nothing = PromptBatch.shared(features.feat.new_zeros(1, self.embed_dims), features.batch_size)
            return features._replace(feat=self.encoder(features, nothing)[0])

    def encode_boxes(
        self, features: ImageFeatures, boxes: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Visual prompt embeddings of boxes on the images of ``features``, at least in float32.

        Args:
            features: From :meth:`encode_image`.
            boxes: Per image (m, 4) pixel xyxy of the network input; not all may be empty.
            image_shapes: Per image (height, width) in pixels, without padding.

        Returns:
            (sum of m, C) in the order of the images.
        """
        with self._inference_precision():
            return at_least_float32(encode_boxes(self.prompt_encoder, features, boxes, image_shapes))

    def encode_exemplars(
        self,
        features: ImageFeatures,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        image_shapes: Sequence[tuple[int, int]],
    ) -> tuple[Tensor, list[Tensor]]:
        """Visual prompt embeddings of boxes whose classes are known, at least in float32.

        Args:
            features: From :meth:`encode_image`.
            boxes: Per image (m, 4) pixel xyxy of the network input; not all may be empty.
            labels: Per image (m,) class index of each box.
            image_shapes: Per image (height, width) in pixels, without padding.

        Returns:
            (n, C) in the order of the images, and per image the class indices of its rows: one row per box, or one per
            class, ascending, if the prompt encoder aggregates boxes. The prompt of a class is the mean of its rows.
        """
        with self._inference_precision():
            rows, classes = encode_exemplars(self.prompt_encoder, features, boxes, labels, image_shapes)
        return at_least_float32(rows), classes

    def text_prompt_set(self, names: Sequence[str]) -> PromptSet:
        """Prompts from class names.

        Raises:
            InputError: the model has no language model.
        """
        if self.language_model is None:
            raise InputError('this model has no language model and takes no text prompts; prompt it with boxes')
        per_token = self.prompts_cfg.text_prompts == 'token'
        return encode_text(names, self.language_model, self.text_feat_map, per_token=per_token)

    def _prompts_of(self, data_samples: list[DetDataSample]) -> list[PromptSet]:
        """Prompts from ``text`` of every sample: class names, or a caption that contains them.

        Raises:
            InputError: a sample has no text, or the model takes no text prompts.
        """
        texts = [sample.get('text') for sample in data_samples]
        names = [caption_names(text) if isinstance(text, str) else list(text or ()) for text in texts]
        if not all(names):
            raise InputError(
                f'{type(self).__name__}: no prompts; evaluate with val_cfg and test_cfg of type PromptedValLoop and '
                'PromptedTestLoop, which give every image its prompts; for the inferencers of MMDetection, give class '
                "names as text, and add 'text' to meta_keys of PackDetInputs in the test pipeline"
            )
        sets = {text: self.text_prompt_set(text) for text in dict.fromkeys(map(tuple, names))}
        return [sets[tuple(text)] for text in names]

    def prompt_sets(
        self, features: ImageFeatures, batch_data_samples: list[DetDataSample], prompts: Prompts
    ) -> list[PromptSet]:
        """Convert prompts to one set per image, on the device of the features: encode boxes, then refine all prompts.

        Raises:
            ValueError: the number of prompts differs from the number of images.
        """
        shapes = [sample.img_shape for sample in batch_data_samples]
        refine = None if self.prompt_refiner is None else self.prompt_refiner.refine
        return prompts_per_image(prompts, features, shapes, self.encode_exemplars, refine)

    def _inference_precision(self) -> contextlib.AbstractContextManager:
        """Autocast to :attr:`inference_dtype`; in training, the optimizer wrapper sets the precision."""
        if self.training or self.inference_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.level_embed.device.type, dtype=self.inference_dtype)

    def token_scores(self, memory: Tensor, features: ImageFeatures, prompts: PromptBatch) -> TokenScores:
        """Score all encoder tokens (bs, T, C) against the prompts after the encoder."""
        stage = self.decoder.num_layers
        return score_tokens(
            memory,
            features,
            prompts,
            lambda tokens: self.memory_trans_norm(self.memory_trans_fc(tokens)),
            self.bbox_head.cls_branches[stage],
        )

    def _select(self, memory: Tensor, features: ImageFeatures, prompts: PromptBatch) -> QuerySelection:
        scores = self.token_scores(memory, features, prompts)
        return select_queries(scores, self.bbox_head.reg_branches[self.decoder.num_layers], self.num_queries)

    def _decode(
        self,
        encoded: EncoderOutput,
        features: ImageFeatures,
        selection: QuerySelection,
        noised: DenoisingQueries | None = None,
    ) -> DetectorOutput:
        """Decode the selected queries; in training the denoising queries come before them."""
        # Start from the boxes of the selected tokens, without gradient.
        bs, num_selected = selection.tokens.shape
        query = self.query_embedding.weight[:num_selected].expand(bs, -1, -1)
        reference_points = selection.boxes.detach()
        # Put the denoising queries in front.
        self_attn_mask = None
        if noised is not None:
            query, reference_points, self_attn_mask = noised.before(query, reference_points)
            # A batch without boxes has no denoising queries, but DDP needs the label embedding in the graph.
            query = query + self.dn_query_generator.label_embedding.weight[0, 0] * 0
        # Run the decoder layers.
        memory, prompts = encoded.memory, encoded.prompts
        hidden_states, references, branch_states = self.decoder(
            query,
            reference_points,
            memory,
            features,
            prompts,
            self.bbox_head.reg_branches,
            selection.cls_logits,
            self_attn_mask,
        )
        if noised is None:
            return DetectorOutput(hidden_states, references, prompts, selection)
        # In training, keep the logits of the gates at the selected tokens for their loss.
        gate_logits = None
        if encoded.gate_logits:
            index = selection.tokens[..., None].expand_as(selection.cls_logits)
            gate_logits = torch.stack([logits.gather(1, index) for logits in encoded.gate_logits])
        return DetectorOutput(hidden_states, references, prompts, selection, noised.groups, gate_logits, branch_states)

    def predict(
        self,
        batch_inputs: Tensor,
        batch_data_samples: list[DetDataSample],
        prompts: Prompts,
        rescale: bool = True,
    ) -> list[DetDataSample]:
        """Detections of one batch.

        A vocabulary of more than ``test_cfg.chunked_size`` classes is split into parts. Encoder and decoder run once
        per part, so that memory depends on the size of a part. Scores of different parts are comparable, but not
        identical to the scores of a single pass: image features attend to all prompts of a pass (feature fusion), and
        each pass selects its own queries.

        Args:
            batch_inputs: (bs, 3, H, W).
            batch_data_samples: Image sizes and scale factors.
            prompts: What to search for: one set for all images, or one entry per image, which may be boxes on it.
            rescale: Return boxes in pixels of the original images instead of the network input.

        Returns:
            The data samples with ``pred_instances``: ``bboxes`` (n, 4) pixel xyxy, ``scores`` (n,), ``labels`` (n,) and
            ``label_names`` (n strings).
        """
        return self.predict_and_output(batch_inputs, batch_data_samples, prompts, rescale)[0]

    def predict_and_output(
        self,
        batch_inputs: Tensor,
        batch_data_samples: list[DetDataSample],
        prompts: Prompts,
        rescale: bool = True,
    ) -> tuple[list[DetDataSample], list[tuple[DetectorOutput, list[PromptSet]]]]:
        """:meth:`predict`, with the intermediate results.

        Returns:
            The data samples as in :meth:`predict`; and per pass, the decoder's output and the prompt set of each image.
        """
        features = self.encode_image(batch_inputs, batch_data_samples)
        return self.detect(features, batch_data_samples, prompts, rescale)

    def detect(
        self,
        features: ImageFeatures,
        batch_data_samples: list[DetDataSample],
        prompts: Prompts,
        rescale: bool = True,
    ) -> tuple[list[DetDataSample], list[tuple[DetectorOutput, list[PromptSet]]]]:
        """:meth:`predict_and_output` for images that are encoded already, so that many prompts can share the encoding.

        Args:
            features: From :meth:`encode_image`.
            batch_data_samples: See :meth:`predict`.
            prompts: See :meth:`predict`.
            rescale: See :meth:`predict`.
        """
        prompt_sets = self.prompt_sets(features, batch_data_samples, prompts)
        # Detect the classes of each part of the vocabulary.
        passes = []
        found: list[list[InstanceData]] = [[] for _ in batch_data_samples]
        for offered in split_vocabulary(prompt_sets, self.test_cfg.get('chunked_size', -1)):
            output = self._detect(features, offered)
            with full_precision(features.feat.device):
                results = self.bbox_head.predict(output, offered, batch_data_samples, rescale)
            for instances, result in zip(found, results, strict=True):
                instances.append(result)
            passes.append((output, offered))
        # Merge the passes of each image, and remove duplicates if that is configured.
        for sample, instances, whole in zip(batch_data_samples, found, prompt_sets, strict=True):
            merged = best_of_passes(instances, self.test_cfg.get('max_per_img'))
            sample.pred_instances = remove_duplicates(merged, self.duplicate_removal)
            sample.pred_instances.label_names = [whole.names[i] for i in sample.pred_instances.labels.tolist()]
        return batch_data_samples, passes

    def _detect(self, features: ImageFeatures, prompt_sets: list[PromptSet]) -> DetectorOutput:
        """Output of the decoder for one prompt set per image; hidden states and prompts are at least in float32."""
        with self._inference_precision():
            output = self.transform(features, PromptBatch.stack(prompt_sets))
        prompts = output.prompts._replace(embeddings=at_least_float32(output.prompts.embeddings))
        return output._replace(hidden_states=at_least_float32(output.hidden_states), prompts=prompts)

    def transform(self, features: ImageFeatures, prompts: PromptBatch) -> DetectorOutput:
        """Run encoder, query selection and decoder: a function of tensors only, which ``torch.compile`` can capture.

        Args:
            features: From :meth:`encode_image`.
            prompts: Prompts of the batch.
        """
        encoded = self._fuse(features, prompts)
        selection = self._select(encoded.memory, features, encoded.prompts)
        return self._decode(encoded, features, selection)

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], prompts: Prompts
    ) -> tuple[Tensor, Tensor]:
        """Raw outputs of all decoder layers: logits (L, bs, N, K) and boxes (L, bs, N, 4), normalised cxcywh."""
        features = self.encode_image(batch_inputs, batch_data_samples)
        output = self._detect(features, self.prompt_sets(features, batch_data_samples, prompts))
        with full_precision(batch_inputs.device):
            return self.bbox_head(output)
