"""Record which queries find the objects of an evaluated set, for each decoder layer."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.dist import all_gather_object, is_main_process
from torch import Tensor

from dinor1.evaluation import QueryStatistics, bernoulli_entropy, query_statistics
from dinor1.models import DINOR1
from dinor1.models.losses import pad_targets
from dinor1.structures import DetectorOutput, PromptSet
from dinor1.utils.errors import InputError
from dinor1.utils.io import write_json
from dinor1.visualization import draw_queries


class QueryRecorder:
    """Collects statistics of the decoder's output during an evaluation; writes ``queries_NAME.json`` and a figure.

    The file contains the summary of :class:`dinor1.evaluation.QueryStatistics` over all objects, and

    - ``matched_places``: per decoder layer, the number of objects matched to each query, in the order of selection;
    - ``objectness_entropy``: mean entropy of the objectness of the selected tokens, in nats;
    - ``absent_class_share``: mean fraction of the detections of an image whose class is absent from the image.

    Args:
        min_iou: Smallest IoU, in (0, 1], at which a query covers an object.
        figure: Whether to draw a figure.

    Raises:
        InputError: ``min_iou`` is not in (0, 1].
    """

    def __init__(self, min_iou: float = 0.5, figure: bool = True) -> None:
        if not 0 < min_iou <= 1:
            raise InputError(f'QueryRecorder: min_iou must be in (0, 1], got {min_iou}')
        self.min_iou, self.figure = min_iou, figure
        self._images: list[tuple[QueryStatistics, float, float | None]] = []

    def start(self, model: DINOR1) -> None:
        """Begin a new record of ``model``.

        Raises:
            InputError: the model is not a DINO-R1, or splits its classes into several passes.
        """
        if not isinstance(model, DINOR1):
            raise InputError(f'QueryRecorder: a {type(model).__name__} takes no prompts; remove query_recorder')
        if model.test_cfg.get('chunked_size', -1) > 0:
            raise InputError('QueryRecorder: test_cfg.chunked_size runs an image several times; remove one of the two')
        self._images, self._head, self._num_queries = [], model.bbox_head, model.num_queries

    def process(
        self, samples: Sequence[DetDataSample], output: DetectorOutput, prompt_sets: Sequence[PromptSet]
    ) -> None:
        """Add the images of a batch.

        Args:
            samples: Data samples with ground truth and detections.
            output: Output of the decoder.
            prompt_sets: Prompt set of each image.
        """
        cls_logits, boxes = self._head(output)
        for i, (sample, prompts) in enumerate(zip(samples, prompt_sets, strict=True)):
            # Measure the entropy of the objectness, and the share of detections whose class is not on the image.
            entropy = bernoulli_entropy(output.selection.objectness[i].float()).mean().item()
            predicted, shown = sample.pred_instances.labels, sample.gt_instances.labels
            absent = (~torch.isin(predicted, shown)).float().mean().item() if len(predicted) else None
            # Compute the statistics of the queries from logits of classes.
            logits = _by_class(cls_logits[:, i], prompts)
            self._images.append((self._count(logits[:, None], boxes[:, i, None], sample, prompts), entropy, absent))

    def _count(self, logits: Tensor, boxes: Tensor, sample: DetDataSample, prompts: PromptSet) -> QueryStatistics:
        """Statistics of one image, from logits (L, 1, Q, num_classes) and boxes (L, 1, Q, 4) normalised cxcywh."""
        truth = sample.gt_instances
        # Leave out objects whose class is not offered: they cannot be found.
        offered = prompts.offered.to(truth.labels.device)
        asked = offered[truth.labels] if len(truth) else torch.zeros(0, dtype=torch.bool)
        # Scale ground truth to the resized image: test pipelines load annotations after resizing.
        scale = truth.bboxes.new_tensor(sample.scale_factor).repeat(2)
        positive = torch.nn.functional.one_hot(truth.labels[asked], logits.shape[-1]).float()
        targets = pad_targets([truth.bboxes[asked] * scale], [positive], [sample.img_shape])
        return query_statistics(logits, boxes, targets, self.min_iou, **getattr(self._head, 'cost_weights', {}))

    def write(self, folder: Path, name: str, num_images: int) -> None:
        """Gather the records of all processes, and write them from the main process.

        Args:
            folder: Folder for ``queries_NAME.json`` and ``vis/queries_NAME.png``.
            name: ``NAME`` in the names of the files.
            num_images: Number of images in the evaluated set.
        """
        # Gather the images of all processes, in the order of the data set.
        parts = all_gather_object(self._images)
        if not is_main_process():
            return
        # Images are distributed round-robin, and the first ones are repeated so that all processes have equally many.
        images = [image for turn in zip_longest(*parts) for image in turn if image is not None][:num_images]
        # Compute the statistics over all images.
        found, entropy, absent = zip(*images, strict=True)
        statistics = QueryStatistics.concatenate(found)
        shares = [share for share in absent if share is not None]
        count = self._num_queries
        places = [np.bincount(layer[layer < count], minlength=count) for layer in statistics.matched]
        record = dict(
            statistics.summary(),
            matched_places=[layer.tolist() for layer in places],
            objectness_entropy=float(np.mean(entropy)),
            absent_class_share=float(np.mean(shares)) if shares else None,
        )
        # Write the record and the figure.
        write_json(record, folder / f'queries_{name}.json', indent=2)
        if self.figure and record['objects']:
            draw_queries({'': record}, folder / 'vis' / f'queries_{name}.png')


def _by_class(logits: Tensor, prompts: PromptSet) -> Tensor:
    """Convert logits (L, Q, K) of prompts to logits (L, Q, num_classes); -inf for classes that are not offered."""
    logits = logits[..., : len(prompts.embeddings)]
    if prompts.labels.tolist() == list(range(prompts.num_classes)):  # one row per class
        return logits
    return torch.logit(logits.float().sigmoid() @ prompts.class_map().to(logits.device).float())
