"""Detectors that a benchmark runs: one of a config, and Grounding DINO as MMDetection and as transformers have it.

All start from random weights. Text inputs of the two peers are made by hand and stand for the output of a text model,
as prompts from a bank do for ours: neither their text model nor our prompt encoder takes part in a prediction.
"""

import contextlib
import copy
import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from mmdet.models.detectors import GroundingDINO
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

import dinor1
from dinor1.errors import InputError
from dinor1.models import DINOR1
from dinor1.registry import HOOKS, MODELS
from dinor1.structures import PromptSet

from .config import load_config

# Width of BERT's tokens, [CLS], '.' and [SEP] in its vocabulary, and the first of its ordinary words.
_TEXT_DIM, _CLS, _DOT, _SEP, _WORD = 768, 101, 1012, 102, 2000


@dataclasses.dataclass(frozen=True)
class Task:
    """What all contenders are given.

    Attributes:
        size: (height, width) of the images; nothing is padded.
        batch: Images.
        prompts: Classes that are looked for.
        boxes: Ground-truth boxes per image, in training.
        device: ``cpu`` or a CUDA device.
    """

    size: tuple[int, int]
    batch: int = 1
    prompts: int = 10
    boxes: int = 8
    device: str = 'cpu'

    def images(self) -> Tensor:
        """(bs, 3, H, W), the same in every call."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, 3, *self.size, generator=generator).to(self.device)

    def boxes_and_labels(self) -> list[tuple[Tensor, Tensor]]:
        """Per image normalised xyxy boxes (m, 4) and class indices (m,)."""
        generator, truth = torch.Generator().manual_seed(1), []
        for _ in range(self.batch):
            corner = 0.6 * torch.rand(self.boxes, 2, generator=generator)
            side = 0.05 + 0.3 * torch.rand(self.boxes, 2, generator=generator)
            labels = torch.randint(self.prompts, (self.boxes,), generator=generator)
            truth.append((torch.cat([corner, corner + side], 1).to(self.device), labels.to(self.device)))
        return truth

    def samples(self) -> list[DetDataSample]:
        """MMDetection's form of the batch, with ground truth in pixels."""
        height, width = self.size
        samples = []
        for boxes, labels in self.boxes_and_labels():
            pixels = boxes * boxes.new_tensor([width, height, width, height])
            meta = dict(img_shape=self.size, ori_shape=self.size, batch_input_shape=self.size, scale_factor=(1.0, 1.0))
            instances = InstanceData(bboxes=pixels, labels=labels)
            samples.append(DetDataSample(metainfo=meta, gt_instances=instances))
        return samples

    @property
    def names(self) -> list[str]:
        return [f'class {i}' for i in range(self.prompts)]


@dataclasses.dataclass
class Contender:
    """A detector and what to do with it.

    Attributes:
        model: Its parameters; in evaluation or training mode as the caller sets it.
        predict: Detections of the task's images, from images that are already normalised to final scores and boxes.
        loss: Sum of the losses on the task's images.
        around: Context in which both must be called.
    """

    model: nn.Module
    predict: Callable[[], object]
    loss: Callable[[], Tensor]
    around: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext


def from_config(config: str, task: Task) -> Contender:
    """The detector of a config. If the config has GRQO, a training step is one of the GRQO stage.

    Raises:
        InputError: no such config, or its model is not a :class:`~dinor1.models.DINOR1`.
    """
    cfg = load_config(config)
    if 'model' not in cfg:
        raise InputError(f'{config}: no model in this config; name one that has it')
    cfg.model.get('backbone', {}).pop('init_cfg', None)
    model = MODELS.build(cfg.model)
    if not isinstance(model, DINOR1):
        raise InputError(f'{config}: a {type(model).__name__} takes no prompts; name a config of a DINOR1')
    initialise(model)
    model.to(task.device)
    if 'grqo' in cfg.get('default_hooks', {}):
        hook = HOOKS.build(cfg.default_hooks.grqo)
        if hook.settings.needs_reference:
            model.set_reference(copy.deepcopy(model).train(hook.mode == 'train'), hook.dtype)
        model.set_grqo(hook.settings)
    embeddings = torch.randn(task.prompts, model.embed_dims, generator=torch.Generator().manual_seed(2))
    prompts = PromptSet.from_classes(embeddings.to(task.device), task.names)
    images, samples = task.images(), task.samples()
    for sample in samples:
        sample.set_field(prompts, 'prompts')
        sample.text = task.names
    # A data sample is written to; the batch stays as it is.
    return Contender(
        model,
        lambda: model.predict(images, copy.deepcopy(samples)),
        lambda: _total(model.loss(images, copy.deepcopy(samples))),
    )


# -----------------------------------------------------------------------------------------------------------
# peers


class _StoredText(nn.Module):
    """Stands where a text model would be: only its width is asked for."""

    def __init__(self, language_dim: int) -> None:
        super().__init__()
        self.language_dim = language_dim
        # MMDetection looks for the width in language_model.language_backbone.body.
        object.__setattr__(self, 'language_backbone', self)
        object.__setattr__(self, 'body', self)


def _caption(task: Task) -> dict[str, Tensor]:
    """``[CLS] name . name . [SEP]``, one token per name: ids, group masks and positions, for every image."""
    length = 2 * task.prompts + 2
    ids = torch.full((length,), _DOT)
    ids[1:-1:2] = torch.arange(_WORD, _WORD + task.prompts)
    ids[0], ids[-1] = _CLS, _SEP
    group = (torch.arange(length) + 1) // 2
    positions = torch.zeros(length, dtype=torch.long)
    positions[2:-1:2] = 1
    group[-1] = task.prompts + 1
    shared = dict(ids=ids, masks=group[:, None] == group[None], position_ids=positions)
    shared['features'] = torch.randn(length, _TEXT_DIM, generator=torch.Generator().manual_seed(2))
    return {name: t.to(task.device).expand(task.batch, *t.shape) for name, t in shared.items()}


def _mmdetection_cfg() -> ConfigDict:
    """MMDetection's ``grounding_dino_swin-t`` without its text model."""
    attention = dict(embed_dims=256, num_heads=8, dropout=0.0)
    ffn = dict(embed_dims=256, feedforward_channels=2048, ffn_drop=0.0)
    costs = [
        dict(type='BinaryFocalLossCost', weight=2.0),
        dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
        dict(type='IoUCost', iou_mode='giou', weight=2.0),
    ]
    return ConfigDict(
        type='mmdet.GroundingDINO',
        num_queries=900,
        with_box_refine=True,
        as_two_stage=True,
        language_model=dict(type=_StoredText, language_dim=_TEXT_DIM),
        backbone=dict(
            type='mmdet.SwinTransformer',
            embed_dims=96,
            depths=[2, 2, 6, 2],
            num_heads=[3, 6, 12, 24],
            window_size=7,
            drop_path_rate=0.2,
            out_indices=(1, 2, 3),
            with_cp=True,
        ),
        neck=dict(
            type='mmdet.ChannelMapper',
            in_channels=[192, 384, 768],
            kernel_size=1,
            out_channels=256,
            act_cfg=None,
            bias=True,
            norm_cfg=dict(type='GN', num_groups=32),
            num_outs=4,
        ),
        encoder=dict(
            num_layers=6,
            layer_cfg=dict(self_attn_cfg=dict(embed_dims=256, num_levels=4, dropout=0.0), ffn_cfg=ffn),
            text_layer_cfg=dict(
                self_attn_cfg=dict(attention, num_heads=4), ffn_cfg=dict(ffn, feedforward_channels=1024)
            ),
            fusion_layer_cfg=dict(v_dim=256, l_dim=256, embed_dim=1024, num_heads=4, init_values=1e-4),
        ),
        decoder=dict(
            num_layers=6,
            return_intermediate=True,
            layer_cfg=dict(
                self_attn_cfg=attention, cross_attn_text_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn
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
            group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=100),
        ),
        train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=costs)),
        test_cfg=dict(max_per_img=300),
    )


class _PromptedGroundingDINO(GroundingDINO):
    """MMDetection's detector from stored text features on; everything behind them is its own code."""

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


def _mmdetection(task: Task, own_operator: bool) -> Contender:
    from dinor1.compat import has_mmcv_operators, mmcv_attention

    if own_operator and task.device != 'cpu' and not has_mmcv_operators():
        raise InputError('mmdetection: MMCV came without its operators; on a GPU name mmdetection+dinor1.ops')
    cfg = _mmdetection_cfg()
    cfg['type'] = _PromptedGroundingDINO
    model = MODELS.build(cfg)
    initialise(model)
    model.to(task.device)
    images, samples, caption = task.images(), task.samples(), _caption(task)
    for i, sample in enumerate(samples):
        labels = sample.gt_instances.labels
        # MMDetection counts labels of a caption from 1; name i is token 1 + 2 i.
        sample.token_positive_map = {k + 1: [1 + 2 * k] for k in range(task.prompts)}
        positive_maps = torch.zeros(len(labels), 256, device=task.device)
        positive_maps[torch.arange(len(labels)), 1 + 2 * labels] = 1
        sample.gt_instances.positive_maps = positive_maps
        sample.gt_instances.text_token_mask = torch.ones_like(caption['ids'][i], dtype=torch.bool).expand(
            len(labels), -1
        )
    return Contender(
        model,
        lambda: model.detect(images, copy.deepcopy(samples), caption),
        lambda: _total(model.losses(images, copy.deepcopy(samples), caption)),
        mmcv_attention if own_operator else contextlib.nullcontext,
    )


class _StoredBert(nn.Module):
    """Returns stored features where transformers' detector calls BERT."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer('features', features, persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=self.features)


def _transformers(task: Task) -> Contender:
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig
    from transformers.utils import logging as their_logging

    their_logging.set_verbosity_error()
    # Only the width of the text model counts: it is not called, and its parameters are thrown away.
    bert = BertConfig(hidden_size=_TEXT_DIM, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], drop_path_rate=0.2, out_indices=[2, 3, 4]
        ),
        text_config=bert,
        auxiliary_loss=True,
        # These are fetched from a hub.
        disable_custom_kernels=True,
    )
    model = GroundingDinoForObjectDetection(config)
    caption, images = _caption(task), task.images()
    draw_biases(model)
    model.model.text_backbone = _StoredBert(caption['features'])
    model.to(task.device)
    inputs = dict(pixel_values=images, input_ids=caption['ids'], attention_mask=torch.ones_like(caption['ids']))
    truth = [
        dict(boxes=torch.cat([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], 1), class_labels=labels)
        for b, labels in task.boxes_and_labels()
    ]
    height, width = task.size

    def predict() -> list[tuple[Tensor, Tensor]]:
        """Best 300 of all queries and names, and their boxes in pixels: what the other contenders return."""
        outputs = model(**inputs)
        scores = outputs.logits[..., 1 : 2 * task.prompts : 2].sigmoid().flatten(1)
        best, index = scores.topk(min(300, scores.shape[1]))
        boxes = outputs.pred_boxes.gather(1, (index // task.prompts)[..., None].expand(-1, -1, 4))
        scale = boxes.new_tensor([width, height])
        centre, half = boxes[..., :2] * scale, boxes[..., 2:] * scale / 2
        return list(zip(best, torch.cat([centre - half, centre + half], -1), strict=True))

    return Contender(model, predict, lambda: model(**inputs, labels=truth).loss)


class Peer(NamedTuple):
    """Another project's detector.

    Attributes:
        make: Builds it.
        own_operator: Whether its deformable attention is its own, so that our backends do not concern it.
    """

    make: Callable[[Task], Contender]
    own_operator: bool


PEERS = {
    'mmdetection': Peer(functools.partial(_mmdetection, own_operator=True), True),
    'mmdetection+dinor1.ops': Peer(functools.partial(_mmdetection, own_operator=False), False),
    'transformers': Peer(_transformers, True),
}


def make_contender(name: str, task: Task) -> Contender:
    """A peer by its name in :data:`PEERS`, or the detector of a config file; equal weights in every call."""
    dinor1.register_all()
    torch.manual_seed(0)
    return PEERS[name].make(task) if name in PEERS else from_config(name, task)


def initialise(model: BaseModule) -> None:
    """Draw the weights, without MMEngine's line for each of them."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)
    draw_biases(model)


def draw_biases(model: nn.Module) -> None:
    """Biases of the backbone's linear layers as alive as trained ones.

    With biases of zero, padded tokens have values of exactly zero, and what attends to them becomes denormal numbers,
    which take a backbone with shifted windows a third of its time, and no trained one.
    """
    for name, module in model.named_modules():
        if 'backbone' in name and isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.02)


def _total(losses: dict[str, Any]) -> Tensor:
    """Sum of what is named a loss, as MMEngine's ``parse_losses``."""
    return sum(value if isinstance(value, Tensor) else sum(value) for name, value in losses.items() if 'loss' in name)
