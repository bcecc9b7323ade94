"""Models and workload of a benchmark: a detector of a config, with random weights and random prompts."""

import contextlib
import copy
import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from dinor1.models import DINOR1, ReferenceModel
from dinor1.registry import HOOKS, MODELS
from dinor1.structures import PromptSet
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class Workload:
    """The input of a benchmark, the same for all models.

    Attributes:
        size: (height, width) of the images in pixels; there is no padding.
        batch: Number of images.
        prompts: Number of classes to detect.
        boxes: Number of ground-truth boxes per image, in training.
        device: ``cpu`` or a CUDA device.
    """

    size: tuple[int, int]
    batch: int = 1
    prompts: int = 10
    boxes: int = 8
    device: str = 'cpu'

    def images(self) -> Tensor:
        """Random images (bs, 3, H, W), the same in every call."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, 3, *self.size, generator=generator).to(self.device)

    def boxes_and_labels(self) -> list[tuple[Tensor, Tensor]]:
        """Normalised xyxy boxes (m, 4) and class indices (m,) of each image."""
        generator, truth = torch.Generator().manual_seed(1), []
        for _ in range(self.batch):
            # Draw boxes inside the image, with sides between 0.05 and 0.35.
            corner = 0.6 * torch.rand(self.boxes, 2, generator=generator)
            side = 0.05 + 0.3 * torch.rand(self.boxes, 2, generator=generator)
            labels = torch.randint(self.prompts, (self.boxes,), generator=generator)
            truth.append((torch.cat([corner, corner + side], 1).to(self.device), labels.to(self.device)))
        return truth

    def samples(self) -> list[DetDataSample]:
        """The batch as MMDetection's data samples, with ground truth in pixels."""
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
        """Class names of the prompts."""
        return [f'class {i}' for i in range(self.prompts)]


@dataclasses.dataclass
class BenchmarkModel:
    """A detector with functions for its prediction and its loss on a workload.

    Attributes:
        model: The module; the caller sets evaluation or training mode.
        predict: Function that detects on the workload's images, up to final scores and boxes.
        loss: Function that returns the sum of the losses on the workload's images.
        context: Makes the context in which both functions must be called.
    """

    model: nn.Module
    predict: Callable[[], object]
    loss: Callable[[], Tensor]
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext


def from_config(config: str, workload: Workload) -> BenchmarkModel:
    """Build the detector of a config. If its head has ``loss_grqo``, a training step includes GRQO and its reference.

    Raises:
        InputError: the config does not exist, or its model is not a :class:`~dinor1.models.DINOR1`.
    """
    # Build the model.
    cfg = load_config(config)
    if 'model' not in cfg:
        raise InputError(f'{config}: no model in this config; give a config with a model')
    cfg.model.get('backbone', {}).pop('init_cfg', None)
    model = MODELS.build(cfg.model)
    if not isinstance(model, DINOR1):
        raise InputError(f'{config}: a {type(model).__name__} takes no prompts; give a config of a DINOR1')
    initialise(model)
    model.to(workload.device)
    # Add the reference model of GRQO.
    loss_grqo = model.bbox_head.loss_grqo
    if loss_grqo is not None and loss_grqo.needs_reference:
        hook = HOOKS.build((cfg.get('default_hooks') or {}).get('reference') or dict(type='ReferenceModelHook'))
        model.reference = ReferenceModel(copy.deepcopy(model).train(hook.mode == 'train'), hook.dtype)
    # Make prompts, images and samples.
    embeddings = torch.randn(workload.prompts, model.embed_dims, generator=torch.Generator().manual_seed(2))
    prompts = PromptSet.from_classes(embeddings.to(workload.device), workload.names)
    images, samples = workload.images(), workload.samples()
    for sample in samples:
        sample.text = workload.names
    # Copy the samples for each call, because the model modifies them.
    return BenchmarkModel(
        model,
        lambda: model.predict(images, copy.deepcopy(samples), prompts),
        lambda: total_loss(model.loss(images, copy.deepcopy(samples))),
    )


def initialise(model: BaseModule) -> None:
    """Draw the weights without MMEngine's log line for each of them."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)
    draw_biases(model)


def draw_biases(model: nn.Module) -> None:
    """Draw the biases of the backbone's linear layers, which are not zero after training.

    With zero biases, padded tokens are exactly zero, and attention to them produces denormal numbers, which take a
    third of the time of a backbone with shifted windows. A trained backbone produces no denormal numbers.
    """
    for name, module in model.named_modules():
        if 'backbone' in name and isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.02)


def total_loss(losses: dict[str, Any]) -> Tensor:
    """Sum of the entries with ``loss`` in their names, as in MMEngine's ``parse_losses``."""
    return sum(value if isinstance(value, Tensor) else sum(value) for name, value in losses.items() if 'loss' in name)
