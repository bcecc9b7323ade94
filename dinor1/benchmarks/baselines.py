"""Grounding DINO in the implementations of MMDetection and of transformers, as baselines.

Both have random weights. Constructed text features replace the output of their text model, and prompts of a bank
replace the output of our prompt encoder, so that a prediction runs neither.

Each baseline has two sizes: Swin-T, as published, and the size of ``dino_r1_nano.py``, with its backbone, numbers of
layers and queries, and hidden widths. MMDetection's code fixes the width of the transformer to 256; nano has 64.
"""

import contextlib
import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from mmdet.models.detectors import GroundingDINO
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

import dinor1
from dinor1.registry import MODELS
from dinor1.utils.errors import InputError

from .models import BenchmarkModel, Workload, draw_biases, from_config, initialise, total_loss

# Width of BERT's tokens, and ids of [CLS], '.', [SEP] and the first ordinary word in its vocabulary.
_TEXT_DIM, _CLS, _DOT, _SEP, _WORD = 768, 101, 1012, 102, 2000


class Size(NamedTuple):
    """Size of a baseline, which also determines the backbone."""

    num_queries: int
    num_levels: int
    encoder_layers: int
    decoder_layers: int
    feedforward_channels: int
    num_dn_queries: int
    max_per_img: int


SWIN_T = Size(900, 4, 6, 6, 2048, 100, 300)
NANO = Size(40, 3, 1, 2, 256, 20, 100)


class _StoredText(nn.Module):
    """Replaces a text model; only its width is used."""

    def __init__(self, language_dim: int) -> None:
        super().__init__()
        self.language_dim = language_dim
        # MMDetection reads the width from language_model.language_backbone.body.
        object.__setattr__(self, 'language_backbone', self)
        object.__setattr__(self, 'body', self)


def caption_inputs(workload: Workload) -> dict[str, Tensor]:
    """Make the caption ``[CLS] name . name . [SEP]`` with one token per name, for every image.

    Returns:
        With T = 2 * prompts + 2 tokens: ``ids`` (bs, T), ``masks`` (bs, T, T) where True means that two tokens belong
        to the same name, ``position_ids`` (bs, T) and ``features`` (bs, T, 768).
    """
    # Write the tokens.
    length = 2 * workload.prompts + 2
    ids = torch.full((length,), _DOT)
    ids[1:-1:2] = torch.arange(_WORD, _WORD + workload.prompts)
    ids[0], ids[-1] = _CLS, _SEP
    # Give a name and its '.' the same index, and positions 0 and 1.
    group = (torch.arange(length) + 1) // 2
    positions = torch.zeros(length, dtype=torch.long)
    positions[2:-1:2] = 1
    group[-1] = workload.prompts + 1
    shared = dict(ids=ids, masks=group[:, None] == group[None], position_ids=positions)
    # Draw the features, and repeat everything for every image.
    shared['features'] = torch.randn(length, _TEXT_DIM, generator=torch.Generator().manual_seed(2))
    return {name: t.to(workload.device).expand(workload.batch, *t.shape) for name, t in shared.items()}


def _mmdetection_backbone(size: Size) -> tuple[dict, list[int]]:
    """Config of the backbone and the channels of its feature maps."""
    if size is NANO:
        stages = dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(1, 2))
        stem = dict(depth=18, base_channels=24, deep_stem=True, avg_down=True)
        return dict(type='mmdet.ResNet', **stem, **stages), [48, 96]
    swin = dict(
        type='mmdet.SwinTransformer',
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.2,
        out_indices=(1, 2, 3),
        with_cp=True,
    )
    return swin, [192, 384, 768]


def _mmdetection_cfg(size: Size) -> ConfigDict:
    """MMDetection's ``grounding_dino_swin-t`` without its text model, in the given size."""
    # Collect the settings that several modules share.
    attention = dict(embed_dims=256, num_heads=8, dropout=0.0)
    deformable = dict(attention, num_levels=size.num_levels)
    ffn = dict(embed_dims=256, feedforward_channels=size.feedforward_channels, ffn_drop=0.0)
    text_ffn = dict(ffn, feedforward_channels=size.feedforward_channels // 2)
    fusion_dim = size.feedforward_channels // 2
    backbone, in_channels = _mmdetection_backbone(size)
    costs = [
        dict(type='BinaryFocalLossCost', weight=2.0),
        dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
        dict(type='IoUCost', iou_mode='giou', weight=2.0),
    ]
    # Describe the detector as MMDetection's config does.
    return ConfigDict(
        type='mmdet.GroundingDINO',
        num_queries=size.num_queries,
        num_feature_levels=size.num_levels,
        with_box_refine=True,
        as_two_stage=True,
        language_model=dict(type=_StoredText, language_dim=_TEXT_DIM),
        backbone=backbone,
        neck=dict(
            type='mmdet.ChannelMapper',
            in_channels=in_channels,
            kernel_size=1,
            out_channels=256,
            act_cfg=None,
            bias=True,
            norm_cfg=dict(type='GN', num_groups=32),
            num_outs=size.num_levels,
        ),
        encoder=dict(
            num_layers=size.encoder_layers,
            layer_cfg=dict(self_attn_cfg=deformable, ffn_cfg=ffn),
            text_layer_cfg=dict(self_attn_cfg=dict(attention, num_heads=4), ffn_cfg=text_ffn),
            fusion_layer_cfg=dict(v_dim=256, l_dim=256, embed_dim=fusion_dim, num_heads=4, init_values=1e-4),
        ),
        decoder=dict(
            num_layers=size.decoder_layers,
            return_intermediate=True,
            layer_cfg=dict(
                self_attn_cfg=attention, cross_attn_text_cfg=attention, cross_attn_cfg=deformable, ffn_cfg=ffn
            ),
            post_norm_cfg=None,
        ),
        positional_encoding=dict(num_feats=128, normalize=True, offset=0.0, temperature=20),
        bbox_head=dict(
            type='mmdet.GroundingDINOHead',
            num_classes=256,
            sync_cls_avg_factor=True,
            contrastive_cfg=dict(max_text_len=256, log_scale='auto', bias=True),
            loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
            loss_bbox=dict(type='mmdet.L1Loss', loss_weight=5.0),
            loss_iou=dict(type='mmdet.GIoULoss', loss_weight=2.0),
        ),
        dn_cfg=dict(
            label_noise_scale=0.5,
            box_noise_scale=1.0,
            group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=size.num_dn_queries),
        ),
        train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=costs)),
        test_cfg=dict(max_per_img=size.max_per_img),
    )


class _PromptedGroundingDINO(GroundingDINO):
    """MMDetection's detector on stored text features; the computation after them is its own code."""

    def text(self, caption: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(
            embedded=self.text_feat_map(caption['features']),
            masks=caption['masks'],
            position_ids=caption['position_ids'],
            text_token_mask=torch.ones_like(caption['ids'], dtype=torch.bool),
        )

    def detect(self, images: Tensor, samples: list[DetDataSample], caption: dict[str, Tensor]) -> list[InstanceData]:
        outputs = self.forward_transformer(self.extract_feat(images), self.text(caption), samples)
        return self.bbox_head.predict(**outputs, rescale=True, batch_data_samples=samples)

    def losses(self, images: Tensor, samples: list[DetDataSample], caption: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = self.forward_transformer(self.extract_feat(images), self.text(caption), samples)
        return self.bbox_head.loss(**outputs, batch_data_samples=samples)


def _mmdetection(workload: Workload, own_operator: bool, size: Size = SWIN_T) -> BenchmarkModel:
    from dinor1.utils.compat import has_mmcv_operators, mmcv_attention

    if own_operator and workload.device != 'cpu' and not has_mmcv_operators():
        raise InputError('mmdetection: MMCV is installed without its operators; on a GPU use mmdetection+dinor1.ops')
    # Build the model.
    cfg = _mmdetection_cfg(size)
    cfg['type'] = _PromptedGroundingDINO
    model = MODELS.build(cfg)
    initialise(model)
    model.to(workload.device)
    # Make the inputs, with the positions of the names in the caption.
    images, samples, caption = workload.images(), workload.samples(), caption_inputs(workload)
    for i, sample in enumerate(samples):
        labels = sample.gt_instances.labels
        # Labels of a caption start at 1 in MMDetection; the token of name i is 1 + 2 i.
        sample.token_positive_map = {k + 1: [1 + 2 * k] for k in range(workload.prompts)}
        positive_maps = torch.zeros(len(labels), 256, device=workload.device)
        positive_maps[torch.arange(len(labels)), 1 + 2 * labels] = 1
        sample.gt_instances.positive_maps = positive_maps
        sample.gt_instances.text_token_mask = torch.ones_like(caption['ids'][i], dtype=torch.bool).expand(
            len(labels), -1
        )
    return BenchmarkModel(
        model,
        lambda: model.detect(images, copy.deepcopy(samples), caption),
        lambda: total_loss(model.losses(images, copy.deepcopy(samples), caption)),
        mmcv_attention if own_operator else contextlib.nullcontext,
    )


class _StoredBert(nn.Module):
    """Replaces BERT in the detector of transformers; returns stored features."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer('features', features, persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=self.features)


def _transformers(workload: Workload, size: Size = SWIN_T) -> BenchmarkModel:
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, ResNetConfig, SwinConfig
    from transformers.utils import logging as their_logging

    their_logging.set_verbosity_error()
    # Describe a small text model: only its width is used, and stored features replace it below.
    bert = BertConfig(hidden_size=_TEXT_DIM, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    # Describe the detector.
    if size is NANO:
        widths = dict(embedding_size=24, hidden_sizes=[24, 48, 96], depths=[2, 2, 2])
        backbone = ResNetConfig(**widths, layer_type='basic', out_indices=[2, 3])
        width, heads = 64, 4
    else:
        backbone = SwinConfig(
            embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], drop_path_rate=0.2, out_indices=[2, 3, 4]
        )
        width, heads = 256, 8
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=bert,
        d_model=width,
        num_queries=size.num_queries,
        num_feature_levels=size.num_levels,
        encoder_layers=size.encoder_layers,
        encoder_ffn_dim=size.feedforward_channels,
        encoder_attention_heads=heads,
        decoder_layers=size.decoder_layers,
        decoder_ffn_dim=size.feedforward_channels,
        decoder_attention_heads=heads,
        auxiliary_loss=True,
        # Do not download kernels from the hub.
        disable_custom_kernels=True,
    )
    # Build it, with stored text features.
    model = GroundingDinoForObjectDetection(config)
    caption, images = caption_inputs(workload), workload.images()
    draw_biases(model)
    model.model.text_backbone = _StoredBert(caption['features'])
    model.to(workload.device)
    # Make the inputs.
    inputs = dict(pixel_values=images, input_ids=caption['ids'], attention_mask=torch.ones_like(caption['ids']))
    truth = [
        dict(boxes=torch.cat([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], 1), class_labels=labels)
        for b, labels in workload.boxes_and_labels()
    ]
    height, width = workload.size

    def predict() -> list[tuple[Tensor, Tensor]]:
        """Scores of the best pairs of query and name, with boxes in pixels like those of the other models."""
        outputs = model(**inputs)
        # Choose the best pairs; the tokens with odd index are the names.
        scores = outputs.logits[..., 1 : 2 * workload.prompts : 2].sigmoid().flatten(1)
        best, index = scores.topk(min(size.max_per_img, scores.shape[1]))
        boxes = outputs.pred_boxes.gather(1, (index // workload.prompts)[..., None].expand(-1, -1, 4))
        # Convert the boxes from normalised cxcywh to pixel xyxy.
        scale = boxes.new_tensor([width, height])
        centre, half = boxes[..., :2] * scale, boxes[..., 2:] * scale / 2
        return list(zip(best, torch.cat([centre - half, centre + half], -1), strict=True))

    return BenchmarkModel(model, predict, lambda: model(**inputs, labels=truth).loss)


class Baseline(NamedTuple):
    """A detector of another project.

    Attributes:
        make: Function that builds the detector.
        own_operator: Whether the detector has its own operator for deformable attention instead of our backends.
    """

    make: Callable[[Workload], BenchmarkModel]
    own_operator: bool


BASELINES = {
    'mmdetection': Baseline(functools.partial(_mmdetection, own_operator=True), True),
    'mmdetection+dinor1.ops': Baseline(functools.partial(_mmdetection, own_operator=False), False),
    'transformers': Baseline(_transformers, True),
    'mmdetection-nano': Baseline(functools.partial(_mmdetection, own_operator=True, size=NANO), True),
    'transformers-nano': Baseline(functools.partial(_transformers, size=NANO), True),
}


def build_model(name: str, workload: Workload) -> BenchmarkModel:
    """Build a baseline of :data:`BASELINES`, or the detector of a config file, with the same weights in every call."""
    dinor1.register_all()
    torch.manual_seed(0)
    return BASELINES[name].make(workload) if name in BASELINES else from_config(name, workload)
