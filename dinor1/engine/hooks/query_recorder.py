"""Which queries answer for the objects of an evaluated set, layer by layer of the decoder."""

from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from dinor1.evaluation import QueryStatistics, bernoulli_entropy, query_statistics
from dinor1.models import DINOR1
from dinor1.models.losses import pad_targets
from dinor1.registry import HOOKS
from dinor1.utils.errors import InputError
from dinor1.utils.io import write_json
from dinor1.visualization import draw_queries


@HOOKS.register_module()
class QueryRecorderHook(Hook):
    """Writes ``queries_test.json`` or ``queries_val_epoch_N.json``, and the picture of it in ``vis/``.

    The file holds the summary of :class:`dinor1.evaluation.QueryStatistics` over all objects, and

    - ``matched_places``: per decoder layer, how many objects were matched to the query of each place in the order of
      selection;
    - ``objectness_entropy``: mean entropy of the objectness of the selected tokens, nats;
    - ``absent_class_share``: share of the detections of an image whose class the image does not show.

    Args:
        min_iou: From which overlap on a query covers an object.
        picture: Whether to draw.

    Raises:
        InputError: ``min_iou`` is not in (0, 1].
    """

    priority = 'LOW'

    def __init__(self, min_iou: float = 0.5, picture: bool = True) -> None:
        if not 0 < min_iou <= 1:
            raise InputError(f'QueryRecorderHook: min_iou must be in (0, 1], got {min_iou}')
        self.min_iou, self.picture = min_iou, picture
        self._handles: list[Any] = []
        self._decoded: list[tuple[Tensor, Tensor]] = []
        self._objectness: list[Tensor] = []

    def before_test_epoch(self, runner: Runner) -> None:
        """Listen to the head.

        Raises:
            InputError: the model is not a DINO-R1, or offers its classes in several passes.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not isinstance(model, DINOR1):
            raise InputError(f'QueryRecorderHook: {type(model).__name__} has no prompts to answer for; remove the hook')
        if model.test_cfg.get('chunked_size', -1) > 0:
            raise InputError('QueryRecorderHook: test_cfg.chunked_size runs an image several times; remove one of both')
        head, num_layers = model.bbox_head, model.decoder.num_layers
        self._images: list[tuple[QueryStatistics, float, float | None]] = []
        self._cost_weights = getattr(head, 'cost_weights', {})

        def decoded(_module: Any, inputs: tuple, _output: Any) -> None:
            # The head is asked for its last layer; here are all of them.
            self._decoded.append(head.forward(*inputs[:4]))

        def selected(_module: Any, _inputs: tuple, logits: Tensor) -> None:
            objectness = logits.amax(-1)
            self._objectness.append(objectness.topk(min(model.num_queries, objectness.shape[1]), 1).values)

        self._handles = [
            head.register_forward_hook(decoded),
            head.cls_branches[num_layers].register_forward_hook(selected),
        ]

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: list | None = None
    ) -> None:
        """Count what the batch's queries did."""
        (cls_logits, boxes), objectness = self._decoded.pop(), self._objectness.pop()
        for i, sample in enumerate(outputs):
            entropy = bernoulli_entropy(objectness[i].float()).mean().item()
            predicted, shown = sample.pred_instances.labels, sample.gt_instances.labels
            absent = (~torch.isin(predicted, shown)).float().mean().item() if len(predicted) else None
            logits = _by_class(cls_logits[:, i], sample)
            self._images.append((self._count(logits[:, None], boxes[:, i, None], sample), entropy, absent))

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Write the file and the picture of the test."""
        self._finish(runner, 'test', len(runner.test_dataloader.dataset))

    before_val_epoch = before_test_epoch
    after_val_iter = after_test_iter

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Write the file and the picture of this epoch."""
        self._finish(runner, f'val_epoch_{runner.epoch}', len(runner.val_dataloader.dataset))

    def _count(self, logits: Tensor, boxes: Tensor, sample: DetDataSample) -> QueryStatistics:
        truth = sample.gt_instances
        # An object whose class is not offered cannot be answered for.
        offered = logits[0, 0, 0].isfinite().to(truth.labels.device)
        asked = offered[truth.labels] if len(truth) else torch.zeros(0, dtype=torch.bool)
        # Test pipelines load annotations after the resize: the truth is in pixels of the original image.
        scale = truth.bboxes.new_tensor(sample.scale_factor).repeat(2)
        positive = torch.nn.functional.one_hot(truth.labels[asked], logits.shape[-1]).float()
        targets = pad_targets([truth.bboxes[asked] * scale], [positive], [sample.img_shape])
        return query_statistics(logits, boxes, targets, self.min_iou, **self._cost_weights)

    def _finish(self, runner: Runner, name: str, num_images: int) -> None:
        for handle in self._handles:
            handle.remove()
        parts = all_gather_object(self._images)
        if not is_main_process():
            return
        # Processes take images in turns, and some repeat the first ones so that all have equally many.
        images = [image for turn in zip_longest(*parts) for image in turn if image is not None][:num_images]
        found, entropy, absent = zip(*images, strict=True)
        statistics = QueryStatistics.concatenate(found)
        absent = [share for share in absent if share is not None]
        num_queries = (runner.model.module if is_model_wrapper(runner.model) else runner.model).num_queries
        places = [np.bincount(layer[layer < num_queries], minlength=num_queries) for layer in statistics.matched]
        record = dict(
            statistics.summary(),
            matched_places=[layer.tolist() for layer in places],
            objectness_entropy=float(np.mean(entropy)),
            absent_class_share=float(np.mean(absent)) if absent else None,
        )
        folder = Path(runner.work_dir)
        write_json(record, folder / f'queries_{name}.json', indent=2)
        if self.picture and record['objects']:
            draw_queries({'': record}, folder / 'vis' / f'queries_{name}.png')


def _by_class(logits: Tensor, sample: DetDataSample) -> Tensor:
    """Logits (L, Q, K) of prompts -> (L, Q, num_classes), -inf where a class is not offered."""
    prompts = sample.get('prompts')
    if prompts is None:  # visual-interactive: a row per class
        return logits
    logits = logits[..., : len(prompts.embeddings)]
    if len(prompts.labels) == prompts.num_classes and bool((prompts.labels.diff() == 1).all()):
        return logits
    return torch.logit(logits.float().sigmoid() @ prompts.class_map().to(logits.device).float())
