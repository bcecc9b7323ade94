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
from dataclasses import replace
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.layers import CdnQueryGenerator
from mmdet.structures import DetDataSample
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
from ..prompts import (
    PromptDraw,
    PromptMemory,
    PromptsConfig,
    TextTable,
    encode_boxes,
    encode_exemplars,
    encode_text,
    prompts_per_image,
    sample_text_prompts,
    upgrade_prompt_encoder,
)
from ..transformer import (
    CachedSinePositions,
    DenoisingQueries,
    TokenScores,
    TransformerDims,
    decode_queries,
    flatten_levels,
    score_tokens,
    select_queries,
)
from .duplicates import duplicate_removal
from .initialization import initialize_transformer
from .prediction import batch_detections, inference_output
from .prompt_parts import build_prompt_parts
from .reference import ReferenceModel
from .rescoring import rescoring
from .training import batch_losses, prompted_objectness


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
            in one pass (-1: all). ``rescoring``, a dict of :class:`~dinor1.models.detectors.rescoring.Rescoring`,
            compares the detected boxes with the prompts; ``nms``, a dict of
            :class:`~dinor1.models.detectors.duplicates.DuplicateRemoval`, removes duplicates (both are off by default).
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
        self.rescoring = rescoring(self.test_cfg.get('rescoring'))

        # Build backbone, neck and head. The head has a branch per decoder layer and one for the encoder's tokens.
        built_decoder = MODELS.build(dict(decoder, dims=dims))
        self.backbone = MODELS.build(backbone)
        check_neck_channels(self.backbone, neck)
        self.neck = MODELS.build(dict(out_channels=dims.embed_dims, num_outs=dims.num_feature_levels) | neck)
        shared = dict(embed_dims=dims.embed_dims, train_cfg=train_cfg, test_cfg=self.test_cfg)
        self.bbox_head = MODELS.build(shared | dict(num_pred_layer=built_decoder.num_layers + 1) | bbox_head)

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
        self.bbox_head.check_settings(self.prompts_cfg, self.prompt_encoder.aggregates, built_decoder.cross_first)
        parts = build_prompt_parts(self.prompts_cfg, dims.embed_dims)
        self.exemplar_policy = parts.exemplar_policy
        self.language_model, self.text_feat_map = parts.language_model, parts.text_feat_map
        self.text_table, self.raw_text_table = TextTable(), TextTable()
        self.alignment, self.relation_distill = parts.alignment, parts.relation_distill
        self.prompt_refiner = parts.refiner

        # Build the generator of denoising queries.
        sizes = dict(num_classes=self.bbox_head.num_classes, embed_dims=dims.embed_dims)
        self.dn_query_generator = CdnQueryGenerator(num_matching_queries=num_queries, **sizes, **dn_cfg)

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
        initialize_transformer(self)

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
            prompts = sample_text_prompts(data_samples, self.text_prompt_set, type(self).__name__)
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
        """:meth:`loss`, and the decoder's output that the losses were computed from; see :func:`.batch_losses`."""
        return batch_losses(self, batch_inputs, batch_data_samples)

    def objectness(
        self,
        tokens: Tensor,
        batch_inputs: Tensor,
        batch_data_samples: list[DetDataSample],
        draw: PromptDraw,
        gates: Sequence[Tensor] = (),
    ) -> Tensor:
        """Highest logit (bs, N) of encoder tokens for the prompts of a draw, see :func:`.prompted_objectness`."""
        return prompted_objectness(self, tokens, batch_inputs, batch_data_samples, draw, gates)

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
        with self.inference_precision():
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
        """:func:`~dinor1.models.prompts.encode_boxes` with the prompt encoder, at least in float32.

        Args:
            features: From :meth:`encode_image`.
            boxes: Per image (m, 4) pixel xyxy of the network input; not all may be empty.
            image_shapes: Per image (height, width) in pixels, without padding.
        """
        with self.inference_precision():
            return at_least_float32(encode_boxes(self.prompt_encoder, features, boxes, image_shapes))

    def encode_exemplars(
        self,
        features: ImageFeatures,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        image_shapes: Sequence[tuple[int, int]],
    ) -> tuple[Tensor, list[Tensor]]:
        """:func:`~dinor1.models.prompts.encode_exemplars` with the prompt encoder, at least in float32.

        The prompt of a class is the mean of its rows. The arguments are those of :meth:`encode_boxes`, with ``labels``:
        per image (m,) class index of each box.
        """
        with self.inference_precision():
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
        prompts = encode_text(names, self.language_model, self.text_feat_map, per_token=per_token)
        return replace(prompts, visual=False)

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

    def inference_precision(self) -> contextlib.AbstractContextManager:
        """Autocast to :attr:`inference_dtype`; in training, the optimizer wrapper sets the precision."""
        if self.training or self.inference_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.level_embed.device.type, dtype=self.inference_dtype)

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
        return batch_detections(self, features, batch_data_samples, prompts, rescale)

    def transform(self, features: ImageFeatures, prompts: PromptBatch) -> DetectorOutput:
        """Run encoder, query selection and decoder: a function of tensors only, which ``torch.compile`` can capture.

        Args:
            features: From :meth:`encode_image`.
            prompts: Prompts of the batch.
        """
        encoded = self.fuse(features, prompts)
        selection = self.select(encoded.memory, features, encoded.prompts)
        return self.decode(encoded, features, selection)

    def fuse(
        self,
        features: ImageFeatures,
        prompts: PromptBatch,
        tokens: Tensor | None = None,
        gates: Sequence[Tensor] = (),
    ) -> EncoderOutput:
        """Encode images with prompts, or return the features if :meth:`encode_image` has encoded them already.

        Args:
            features: From :meth:`encode_image`.
            prompts: Prompts of the batch.
            tokens: (bs, N) tokens whose memory is used; None: all. See the encoder.
            gates: Gates to use instead of computing them, see :class:`~dinor1.structures.EncoderOutput`.
        """
        if self.prompt_encoder.source == 'encoder':
            return EncoderOutput(features.feat, prompts)
        encoded: EncoderOutput = self.encoder(features, prompts, tokens=tokens, gates=gates)
        return encoded

    def token_scores(self, memory: Tensor, features: ImageFeatures, prompts: PromptBatch) -> TokenScores:
        """Score all encoder tokens (bs, T, C) against the prompts after the encoder."""
        cls_branch = self.bbox_head.cls_branches[self.decoder.num_layers]
        return score_tokens(
            memory, features, prompts, lambda tokens: self.memory_trans_norm(self.memory_trans_fc(tokens)), cls_branch
        )

    def select(self, memory: Tensor, features: ImageFeatures, prompts: PromptBatch) -> QuerySelection:
        """Select the encoder tokens (bs, T, C) that match the prompts best."""
        scores = self.token_scores(memory, features, prompts)
        return select_queries(scores, self.bbox_head.reg_branches[self.decoder.num_layers], self.num_queries)

    def decode(
        self,
        encoded: EncoderOutput,
        features: ImageFeatures,
        selection: QuerySelection,
        noised: DenoisingQueries | None = None,
    ) -> DetectorOutput:
        """Decode the selected queries; in training the denoising queries come before them."""
        branches, embedding = self.bbox_head.reg_branches, self.query_embedding.weight
        return decode_queries(self.decoder, branches, embedding, encoded, features, selection, noised)

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], prompts: Prompts
    ) -> tuple[Tensor, Tensor]:
        """Raw outputs of all decoder layers: logits (L, bs, N, K) and boxes (L, bs, N, 4), normalised cxcywh."""
        features = self.encode_image(batch_inputs, batch_data_samples)
        output = inference_output(self, features, self.prompt_sets(features, batch_data_samples, prompts))
        with full_precision(batch_inputs.device):
            return self.bbox_head(output)
