"""DINO-R1: a Grounding DINO that finds objects by example.

C. Pan, W. He, Z. Tu, L. Ren, *DINO-R1: Incentivizing Reasoning Capability in Vision Foundation Models*,
arXiv 2505.24025. Visual prompt embeddings stand where Grounding DINO (arXiv 2303.05499) has text tokens:

    images -> backbone, neck -> feat
    prompts: boxes -> VisualPromptEncoder(feat) | names -> language model | bank -> PromptBatch
    with a category graph: PromptBatch -> refined along its edges -> PromptBatch
    feat, prompts -> encoder -> memory, refined prompts -> select_queries -> decoder -> head
"""

import contextlib
import sys
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmdet.models.detectors import GroundingDINO
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from dinor1.blocks.category_graph.prompt_refiner import CategoryGraphPrompts
from dinor1.registry import MODELS
from dinor1.structures import PromptBatch, PromptSet
from dinor1.utils.errors import InputError
from dinor1.utils.precision import at_least_float32, full_precision

from ..losses import LanguageAlignment, targets_of
from ..prompts import PromptDraw, common_vocabulary, positive_maps, sample_prompts
from ..transformer import DINOR1TransformerDecoder, DINOR1TransformerEncoder, RememberedSinePositions
from ..transformer.query_selection import Selection, SelectionMixin
from .layer_cfg import decoder_cfg, encoder_cfg
from .prompted import PromptMixin
from .reference import ReferenceMixin


@MODELS.register_module()
class DINOR1(PromptMixin, SelectionMixin, ReferenceMixin, GroundingDINO):
    """Detector prompted by boxes, class names, or both.

    Sub-modules and parameters that Grounding DINO has too keep MMDetection's names; a checkpoint of it lacks
    ``prompt_encoder.*`` and, with alignment, ``alignment.logit_scale``.

    Args:
        embed_dims: Width C of the transformer.
        num_heads: Attention heads; fusion and prompt layers use half as many.
        feedforward_channels: Hidden width of the FFNs.
        num_points: Sampling points of deformable attention per head and level.
        num_feature_levels: Levels that the neck gives.
        encoder: Overrides of the encoder's config, such as ``dict(num_layers=2)``.
        decoder: Overrides of the decoder's config.
        prompt_encoder: Overrides of ``VisualPromptEncoder``'s config.
        norm_cfg: Norm of all transformer layers, of the fusion, of the prompt encoder and before query selection;
            backbone and neck have their own. Default: LayerNorm.
        language_model: Config of MMDetection's ``BertModel`` or of ``WordHashModel``; None: no text prompts, and no
            text model is needed.
        alignment: Arguments of ``LanguageAlignment``; needs a language model.
        prompt_refiner: Arguments of ``CategoryGraphPrompts``: ``graph``, and those of ``PromptGraphRefiner``. Training
            images must bring class names (``return_classes``).
        text_prompts: ``token``: one prompt per token, as Grounding DINO; ``class``: one per class name.
        **kwargs: ``GroundingDINO``'s: ``backbone``, ``neck``, ``bbox_head``, ``num_queries``, ``dn_cfg``,
            ``train_cfg``, ``test_cfg``, ``data_preprocessor`` ...

    Attributes:
        inference_dtype: Autocast of everything but training, such as ``torch.bfloat16``; None: none. Box refinement,
            positions of samples and the scores that queries are selected by and detections are sorted by are computed
            in float32 in any case. Training is the optimizer wrapper's affair.
    """

    inference_dtype: torch.dtype | None = None

    def __init__(
        self,
        *,
        embed_dims: int = 256,
        num_heads: int = 8,
        feedforward_channels: int = 2048,
        num_points: int = 4,
        num_feature_levels: int = 4,
        encoder: dict | None = None,
        decoder: dict | None = None,
        prompt_encoder: dict | None = None,
        norm_cfg: dict | None = None,
        language_model: dict | None = None,
        alignment: dict | None = None,
        prompt_refiner: dict | None = None,
        text_prompts: str = 'token',
        **kwargs: Any,
    ) -> None:
        if alignment is not None and language_model is None:
            raise InputError('model.alignment needs model.language_model; set alignment=None or give a language model')
        if text_prompts not in ('token', 'class'):
            raise InputError(f"model.text_prompts must be 'token' or 'class', got {text_prompts!r}")
        self.text_prompts = text_prompts
        self._norm_cfg = norm_cfg or dict(type='LN')
        sizes = (embed_dims, num_heads, feedforward_channels, num_feature_levels, num_points, self._norm_cfg)
        self._prompt_encoder_cfg = dict(
            type='VisualPromptEncoder',
            embed_dims=embed_dims,
            num_heads=num_heads,
            num_levels=num_feature_levels,
            num_points=num_points,
            feedforward_channels=feedforward_channels,
            norm_cfg=dict(self._norm_cfg),
        ) | (prompt_encoder or {})
        self._alignment_cfg, self._prompt_refiner_cfg = alignment, prompt_refiner
        kwargs['bbox_head'] = dict(embed_dims=embed_dims) | kwargs['bbox_head']
        kwargs['neck'] = dict(out_channels=embed_dims, num_outs=num_feature_levels) | kwargs['neck']
        kwargs['positional_encoding'] = dict(num_feats=embed_dims // 2) | kwargs['positional_encoding']
        super().__init__(
            language_model,
            encoder=encoder_cfg(*sizes, encoder or {}),
            decoder=decoder_cfg(*sizes, decoder or {}),
            num_feature_levels=num_feature_levels,
            as_two_stage=True,
            with_box_refine=True,
            **kwargs,
        )

    def _init_layers(self) -> None:
        self.positional_encoding = RememberedSinePositions(**self.positional_encoding)
        self.encoder = DINOR1TransformerEncoder(**self.encoder)
        self.decoder = DINOR1TransformerDecoder(**self.decoder)
        self.embed_dims = self.encoder.embed_dims
        self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims)
        self.level_embed = nn.Parameter(torch.empty(self.num_feature_levels, self.embed_dims))
        self.memory_trans_fc = nn.Linear(self.embed_dims, self.embed_dims)
        self.memory_trans_norm = build_norm_layer(self._norm_cfg, self.embed_dims)[1]
        self.prompt_encoder = MODELS.build(self._prompt_encoder_cfg)
        self.language_model = self.text_feat_map = self.alignment = self.prompt_refiner = None
        if self.language_model_cfg is not None:
            self.language_model = MODELS.build(self.language_model_cfg).requires_grad_(False)
            # MMDetection's BertModel keeps the width deep inside.
            body = getattr(self.language_model, 'language_backbone', [self.language_model])[0]
            self.text_feat_map = nn.Linear(body.language_dim, self.embed_dims)
            # Without alignment nothing trains it, and DDP waits for the gradient of what is not frozen.
            self.text_feat_map.requires_grad_(self._alignment_cfg is not None)
        if self._alignment_cfg is not None:
            self.alignment = LanguageAlignment(**self._alignment_cfg)
        if self._prompt_refiner_cfg is not None:
            self.prompt_refiner = CategoryGraphPrompts(self.embed_dims, **self._prompt_refiner_cfg)

    def init_weights(self) -> None:
        """Initialise as Grounding DINO; the prompt encoder initialises itself."""
        super(GroundingDINO, self).init_weights()
        if self.text_feat_map is not None:
            nn.init.xavier_uniform_(self.text_feat_map.weight)
            nn.init.zeros_(self.text_feat_map.bias)

    # ---------------------------------------------------------------- training

    def train(self, mode: bool = True) -> 'DINOR1':
        """Training mode, but for the language model: it is frozen, and its dropout would blur the names."""
        super().train(mode)
        if self.language_model is not None:
            self.language_model.eval()
        return self

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Losses of one batch under in-batch visual prompts.

        Args:
            batch_inputs: (bs, 3, H, W) after the data preprocessor.
            batch_data_samples: ``gt_instances`` with ``bboxes`` (m, 4) pixel xyxy and ``labels`` (m,). Images, and
                whole batches, without boxes are fine. ``text``, the class names, may differ from image to image.
        """
        labels, classes = common_vocabulary(
            [sample.gt_instances.labels for sample in batch_data_samples],
            [sample.get('text') for sample in batch_data_samples],
        )
        draw = sample_prompts(labels, classes)
        features = self.encode_image(batch_inputs, batch_data_samples)
        prompts, instances = self.encode_drawn(features, batch_data_samples, draw, every_box=self.alignment is not None)
        memory, memory_prompts = self.encoder(**features, prompts=prompts)
        selection = self.select_queries(memory, memory_prompts, prompts, features)

        for sample, positive_map in zip(batch_data_samples, positive_maps(labels, draw), strict=True):
            sample.gt_instances.positive_maps = positive_map
        targets = targets_of(
            [sample.gt_instances for sample in batch_data_samples], [s.img_shape for s in batch_data_samples]
        )
        hidden_states, references, dn_meta = self.decode(
            selection, memory, memory_prompts, prompts, features, batch_data_samples
        )
        ref_logits = None
        if self.bbox_head.grqo is not None:
            ref_logits = self.reference_logits(selection.tokens, batch_inputs, batch_data_samples, draw)
        losses = self.bbox_head.loss(
            hidden_states,
            references,
            memory_prompts,
            prompts.mask,
            enc_outputs_class=selection.cls_logits,
            enc_outputs_coord=selection.boxes,
            dn_meta=dn_meta,
            targets=targets,
            selected_logits=selection.objectness,
            ref_logits=ref_logits,
        )
        if self.alignment is not None:
            losses['loss_alignment'] = self.alignment_loss(instances, labels, draw)
        return losses

    def objectness(
        self, tokens: Tensor, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], draw: PromptDraw
    ) -> Tensor:
        """(bs, N) best prompt logit of the encoder tokens ``tokens`` (bs, N), for the prompts that the student drew."""
        features = self.encode_image(batch_inputs, batch_data_samples)
        prompts, _ = self.encode_drawn(features, batch_data_samples, draw)
        memory, memory_prompts = self.encoder(**features, prompts=prompts, tokens=tokens)
        return self.token_logits(memory, memory_prompts, prompts, features)[0].amax(-1).gather(1, tokens)

    # ---------------------------------------------------------------- images

    def encode_image(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor | None]:
        """Multi-level features of the neck, flattened.

        Returns:
            ``feat`` (bs, sum HW, C), ``feat_mask`` (bs, sum HW) True = padding or None, ``feat_pos``,
            ``spatial_shapes`` (L, 2), ``level_start_index`` (L,), ``valid_ratios`` (bs, L, 2).
        """
        with self._inference_precision():
            levels = self.extract_feat(batch_inputs)
            features = self.pre_transformer(levels, batch_data_samples)[0]
        # As numbers: reading a tensor back stops the host on a GPU, and cannot be compiled.
        shapes = [tuple(level.shape[-2:]) for level in levels]
        sizes = [height * width for height, width in shapes]
        starts = [sum(sizes[:level]) for level in range(len(sizes))]
        return features | dict(spatial_shapes=shapes, level_start_index=starts)

    def _inference_precision(self) -> contextlib.AbstractContextManager:
        """Autocast to :attr:`inference_dtype`; in training, whatever is set around it."""
        device = self.level_embed.device.type
        if self.training or self.inference_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=self.inference_dtype)

    # ---------------------------------------------------------------- queries

    def decode(
        self,
        selection: Selection,
        memory: Tensor,
        memory_prompts: Tensor,
        prompts: PromptBatch,
        features: dict[str, Tensor | None],
        batch_data_samples: list[DetDataSample] | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, int] | None]:
        """Run the decoder on the selected queries, preceded by denoising queries when ``batch_data_samples`` is given.

        Returns:
            hidden states (L, bs, num_dn + N, C), references (1 + L, bs, num_dn + N, 4), and the denoising meta data.
        """
        bs, num_selected = selection.tokens.shape
        query = self.query_embedding.weight[:num_selected].expand(bs, -1, -1)
        reference_points = selection.boxes.detach()
        self_attn_mask = dn_meta = None
        if batch_data_samples is not None:
            dn_query, dn_boxes, self_attn_mask, dn_meta = self.dn_query_generator(
                [self._denoising_sample(sample) for sample in batch_data_samples]
            )
            # A batch without boxes has no denoising query, and DDP wants the embedding in the graph all the same.
            unused = self.dn_query_generator.label_embedding.weight[0, 0] * 0
            query = torch.cat([dn_query.to(query.dtype), query + unused], 1)
            reference_points = torch.cat([dn_boxes.sigmoid().to(reference_points.dtype), reference_points], 1)
            # The generator masks for num_queries queries; there are fewer where the image has fewer tokens.
            self_attn_mask = self_attn_mask[: query.shape[1], : query.shape[1]]
        hidden_states, references = self.decoder(
            query=query,
            reference_points=reference_points,
            self_attn_mask=self_attn_mask,
            memory=memory,
            memory_mask=features['feat_mask'],
            memory_prompts=memory_prompts,
            prompts=prompts,
            spatial_shapes=features['spatial_shapes'],
            level_start_index=features['level_start_index'],
            valid_ratios=features['valid_ratios'],
            reg_branches=self.bbox_head.reg_branches,
        )
        return hidden_states, references, dn_meta

    def _denoising_sample(self, sample: DetDataSample) -> DetDataSample:
        """The ground truth with labels that fit the denoising label embedding.

        Published checkpoints have 256 rows, and a data set may have more classes. Classes that share a row only share
        the content that their noised queries start from: targets and losses are of the prompts.
        """
        labels = sample.gt_instances.labels % self.dn_query_generator.num_classes
        instances = InstanceData(bboxes=sample.gt_instances.bboxes, labels=labels)
        return DetDataSample(metainfo=dict(img_shape=sample.img_shape), gt_instances=instances)

    # ---------------------------------------------------------------- inference

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Detections of one batch.

        A vocabulary of more than ``test_cfg.chunked_size`` classes is offered in parts, one pass of encoder and decoder
        each; memory then depends on the size of a part. Scores of the parts are comparable, but not bit by bit those of
        one pass: image features attend to the prompts that are offered together with a class (feature fusion), and
        each part selects its own queries.

        Args:
            batch_inputs: (bs, 3, H, W).
            batch_data_samples: Each carries its prompts, see :meth:`prompt_sets`.
            rescale: Return pixels of the original images.

        Returns:
            The data samples with ``pred_instances``: ``bboxes`` (n, 4) pixel xyxy, ``scores`` (n,), ``labels`` (n,) and
            ``label_names`` (n strings).
        """
        features = self.encode_image(batch_inputs, batch_data_samples)
        prompt_sets = self.prompt_sets(features, batch_data_samples)
        chunks = [prompts.split(self._chunked_size) for prompts in prompt_sets]
        found: list[list[InstanceData]] = [[] for _ in batch_data_samples]
        for i in range(max(map(len, chunks))):
            shown = [
                parts[i] if i < len(parts) else PromptSet.nothing(whole.names, whole.embeddings)
                for parts, whole in zip(chunks, prompt_sets, strict=True)
            ]
            hidden_states, references, memory_prompts, prompts = self._detect(features, shown)
            with full_precision(batch_inputs.device):
                results = self.bbox_head.predict(
                    hidden_states, references, memory_prompts, prompts.mask, shown, batch_data_samples, rescale
                )
            for instances, result in zip(found, results, strict=True):
                instances.append(result)
        for sample, instances, prompts in zip(batch_data_samples, found, prompt_sets, strict=True):
            sample.pred_instances = self._best(instances)
            sample.pred_instances.label_names = [prompts.names[i] for i in sample.pred_instances.labels.tolist()]
        return batch_data_samples

    @property
    def _chunked_size(self) -> int:
        """Most classes that are offered in one pass."""
        size = self.test_cfg.get('chunked_size', -1)
        return sys.maxsize if size < 1 else size

    def _best(self, instances: list[InstanceData]) -> InstanceData:
        """The highest scores of all passes over an image."""
        if len(instances) == 1:
            return instances[0]
        merged = InstanceData.cat(instances)
        order = merged.scores.argsort(descending=True, stable=True)
        return merged[order[: self.test_cfg.get('max_per_img', len(order))]]

    def _detect(
        self, features: dict[str, Tensor | None], prompt_sets: list[PromptSet]
    ) -> tuple[Tensor, Tensor, Tensor, PromptBatch]:
        prompts = PromptBatch.stack(prompt_sets)
        with self._inference_precision():
            hidden_states, references, memory_prompts = self.transform(features, prompts)
        return at_least_float32(hidden_states), references, at_least_float32(memory_prompts), prompts

    def transform(self, features: dict[str, Tensor | None], prompts: PromptBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder, query selection and decoder: a function of tensors alone, which ``torch.compile`` can take whole.

        Args:
            features: From :meth:`encode_image`.
            prompts: Prompts of the batch.

        Returns:
            hidden states (L, bs, N, C), references (1 + L, bs, N, 4), and the refined prompts (bs, K, C).
        """
        memory, memory_prompts = self.encoder(**features, prompts=prompts)
        selection = self.select_queries(memory, memory_prompts, prompts, features)
        hidden_states, references, _ = self.decode(selection, memory, memory_prompts, prompts, features)
        return hidden_states, references, memory_prompts

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> tuple[Tensor, Tensor]:
        """Raw outputs: logits (L, bs, N, K) and boxes (L, bs, N, 4) normalised cxcywh, of all decoder layers."""
        features = self.encode_image(batch_inputs, batch_data_samples)
        hidden_states, references, memory_prompts, prompts = self._detect(
            features, self.prompt_sets(features, batch_data_samples)
        )
        with full_precision(batch_inputs.device):
            return self.bbox_head(hidden_states, references, memory_prompts, prompts.mask)
