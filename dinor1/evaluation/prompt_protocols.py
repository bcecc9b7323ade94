"""Evaluation protocols: the prompts of a detector for the images of an evaluated set.

A config names ``TextPrompts``, ``VisualGeneric`` or ``VisualInteractive`` in ``val_cfg.prompts`` and
``test_cfg.prompts``; :mod:`dinor1.engine.loops` runs them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.dataset import BaseDataset
from torch import nn

from dinor1.registry import DATASETS, TASK_UTILS
from dinor1.structures import BoxPrompts, PromptSet
from dinor1.utils.errors import InputError

from .exemplar_weighting import read_weighting, weigh_exemplars
from .prompt_similarity import iisr
from .protocol_names import TEXT, VISUAL_GENERIC, VISUAL_INTERACTIVE
from .visual_generic import Exemplar, average_exemplars, draw_exemplars, embed_exemplars
from .visual_interactive import draw_interactive


@dataclass(frozen=True)
class EvaluationPrompts:
    """The prompts of one evaluation.

    Attributes:
        description: The protocol and its settings, which identify a result.
        names: Class names of the evaluated set.
        shared: Prompts for all images; None: each image has its own boxes.
        boxes: Image id -> exemplars on the image itself; empty if ``shared`` is given.
        exemplars: The instances that were drawn; empty for text.
        dataset: The data set of the exemplars; None for text.
        file_stem: Name of the file that records the draw, without suffix; empty for text.
        asked: Image id -> the only class of ``shared`` that is offered for the image; empty: all classes are offered.
        similarity: Similarity of the exemplars within and between classes, see
            :func:`~dinor1.evaluation.prompt_similarity.iisr`, without undefined values; empty if the exemplars are not
            the prompts of all images.
    """

    description: dict[str, Any]
    names: tuple[str, ...]
    shared: PromptSet | None = None
    boxes: dict[int, list[Exemplar]] = field(default_factory=dict)
    exemplars: Sequence[Exemplar] = ()
    dataset: BaseDataset | None = None
    file_stem: str = ''
    asked: dict[int, int] = field(default_factory=dict)
    similarity: dict[str, float] = field(default_factory=dict)

    def of(self, samples: Sequence[DetDataSample]) -> PromptSet | list[BoxPrompts]:
        """The prompts of a batch, for :meth:`dinor1.models.DINOR1.predict`."""
        if self.shared is not None and self.asked:
            return [self._only(self.asked[sample.img_id]) for sample in samples]
        if self.shared is not None:
            return self.shared
        return [self._boxes_of(sample) for sample in samples]

    def _only(self, label: int) -> PromptSet:
        return replace(self.shared, mask=self.shared.mask & (self.shared.labels == label))

    def _boxes_of(self, sample: DetDataSample) -> BoxPrompts:
        exemplars = self.boxes[sample.img_id]
        boxes = torch.tensor([e.bbox for e in exemplars], dtype=torch.float32).reshape(-1, 4)
        # Exemplars are in pixels of the original image, prompts in pixels of the network input.
        boxes = boxes * boxes.new_tensor(sample.scale_factor).repeat(2)
        if sample.get('flip'):
            boxes = bbox_flip(boxes, sample.img_shape, sample.flip_direction)
        return BoxPrompts(boxes, torch.tensor([e.label for e in exemplars], dtype=torch.long), self.names)

    def record(self) -> dict[str, Any]:
        """The draw as a JSON object; together with the annotation file it reproduces the prompts."""
        known = self.dataset.metainfo['classes']
        exemplars = [dict(img_id=e.img_id, bbox=e.bbox, name=known[e.label]) for e in self.exemplars]
        record = dict(self.description, ann_file=str(self.dataset.ann_file), exemplars=exemplars)
        if self.asked:
            record['asked'] = [dict(img_id=image, name=self.names[label]) for image, label in self.asked.items()]
        return record


class PromptedMetric(ABC):
    """Base class of metrics that depend on the offered prompts; the prompted loops call :meth:`use_prompts`."""

    @abstractmethod
    def use_prompts(self, prompts: EvaluationPrompts) -> None:
        """Store the prompts of the evaluation, before its first image.

        Raises:
            InputError: the metric does not support this protocol.
        """


class PromptProtocol(ABC):
    """Base class of protocols, which compute the prompts of an evaluated set."""

    def num_images_to_encode(self) -> int:
        """Number of images that :meth:`prepare` encodes with the model."""
        return 0

    def check_model(self, model: nn.Module) -> None:  # noqa: B027, most protocols suit every model
        """Check that a :class:`dinor1.models.DINOR1` supports these prompts.

        Raises:
            InputError: the model does not support them.
        """

    def with_seed(self, seed: int) -> 'PromptProtocol':
        """A copy of the protocol with another seed of the draw.

        Raises:
            InputError: the protocol draws no exemplars.
        """
        raise InputError(f'{type(self).__name__}: draws no visual prompts, there is nothing to repeat with a seed')

    @abstractmethod
    def prepare(
        self, model: nn.Module, dataset: BaseDataset, progress: Callable[[], None] | None = None
    ) -> EvaluationPrompts:
        """Compute the prompts with the current weights.

        Args:
            model: A :class:`dinor1.models.DINOR1`.
            dataset: The evaluated set.
            progress: Called after each encoded image.

        Returns:
            The prompts of the whole set.
        """


@TASK_UTILS.register_module()
class TextPrompts(PromptProtocol):
    """Prompts are the class names of the evaluated set; the model needs a language model."""

    def check_model(self, model: nn.Module) -> None:
        """See :meth:`PromptProtocol.check_model`."""
        if model.language_model is None:
            raise InputError(
                'TextPrompts: the model has no language model; set model.prompts.language_model, or evaluate with '
                'VisualGeneric or VisualInteractive'
            )

    def prepare(
        self, model: nn.Module, dataset: BaseDataset, progress: Callable[[], None] | None = None
    ) -> EvaluationPrompts:
        """See :meth:`PromptProtocol.prepare`."""
        names = tuple(dataset.metainfo['classes'])
        return EvaluationPrompts(dict(protocol=TEXT), names, model.text_prompt_set(names))


@TASK_UTILS.register_module()
class VisualGeneric(PromptProtocol):
    """The prompt of a class is the mean embedding of a few instances from other images.

    All classes of the evaluated set are offered, except those without an exemplar, which cannot be found.

    Args:
        dataset: Data set of the exemplars, or its config.
        num_exemplars: Maximum number of instances per class, at least 1.
        seed: Seed of the draw.
        whole_images: Whether ``num_exemplars`` counts images instead, with all instances of the class on them, as in
            DETR-ViP (arXiv 2604.14684) and T-Rex2.
        exemplar_weighting: Settings of :class:`~dinor1.evaluation.exemplar_weighting.ExemplarWeighting`: a weighted
            mean, in which exemplars that find the objects of the other support images count more; None: the plain mean.
    """

    def __init__(
        self,
        dataset: dict | BaseDataset,
        num_exemplars: int = 16,
        seed: int = 0,
        whole_images: bool = False,
        exemplar_weighting: dict | None = None,
    ) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.num_exemplars, self.seed, self.whole_images = num_exemplars, seed, whole_images
        self.weighting = read_weighting(exemplar_weighting)
        self.exemplars = draw_exemplars(self.dataset, num_exemplars, seed, whole_images)

    def with_seed(self, seed: int) -> 'VisualGeneric':
        """See :meth:`PromptProtocol.with_seed`."""
        weighting = None if self.weighting is None else asdict(self.weighting)
        return VisualGeneric(self.dataset, self.num_exemplars, seed, self.whole_images, weighting)

    def num_images_to_encode(self) -> int:
        """See :meth:`PromptProtocol.num_images_to_encode`."""
        return len({exemplar.index for exemplar in self.exemplars})

    def prepare(
        self, model: nn.Module, dataset: BaseDataset, progress: Callable[[], None] | None = None
    ) -> EvaluationPrompts:
        """See :meth:`PromptProtocol.prepare`."""
        # Record classes without an exemplar.
        names, known = tuple(dataset.metainfo['classes']), self.dataset.metainfo['classes']
        drawn = {known[exemplar.label] for exemplar in self.exemplars}
        description = dict(protocol=VISUAL_GENERIC, num_exemplars=self.num_exemplars, seed=self.seed)
        unit = 'n'
        if self.whole_images:
            description['whole_images'], unit = True, 'images'
        if missing := [name for name in names if name not in drawn]:
            description['without_exemplar'] = missing
        # Embed the exemplars, and compare the embeddings of all classes.
        rows, labels = embed_exemplars(model, self.dataset, self.exemplars, progress)
        weights, suffix = None, ''
        if self.weighting is not None:
            description['exemplar_weighting'], suffix = asdict(self.weighting), '_weighted'
            weights = weigh_exemplars(model, self.dataset, self.exemplars, rows, labels, self.weighting)
        bank = average_exemplars(model, self.dataset, self.exemplars, rows, labels, weights)
        similarity = {name: value for name, value in iisr(rows, labels).items() if not math.isnan(value)}
        return EvaluationPrompts(
            description,
            names,
            bank.prompt_set(names),
            exemplars=self.exemplars,
            dataset=self.dataset,
            file_stem=f'prompts_{VISUAL_GENERIC}_{unit}{self.num_exemplars}_seed{self.seed}{suffix}',
            similarity=similarity,
        )


@TASK_UTILS.register_module()
class VisualInteractive(PromptProtocol):
    """The prompt of a class is one of its ground-truth boxes on the test image itself.

    Classes that are absent from an image are not offered for it, which makes this the easiest protocol.

    Args:
        seed: Seed of the draw.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def with_seed(self, seed: int) -> 'VisualInteractive':
        """See :meth:`PromptProtocol.with_seed`."""
        return VisualInteractive(seed)

    def prepare(
        self, model: nn.Module, dataset: BaseDataset, progress: Callable[[], None] | None = None
    ) -> EvaluationPrompts:
        """See :meth:`PromptProtocol.prepare`."""
        boxes = draw_interactive(dataset, self.seed)
        note = 'prompts come from the test image, absent classes are not offered: easier than visual-generic'
        return EvaluationPrompts(
            dict(protocol=VISUAL_INTERACTIVE, seed=self.seed, note=note),
            tuple(dataset.metainfo['classes']),
            boxes=boxes,
            exemplars=[exemplar for exemplars in boxes.values() for exemplar in exemplars],
            dataset=dataset,
            file_stem=f'prompts_{VISUAL_INTERACTIVE}_seed{self.seed}',
        )
