"""Protocol with one class per image, present or absent: does the detector report nothing if the class is absent?"""

import dataclasses
import zlib
from collections.abc import Callable, Collection

import numpy as np
from mmengine.dataset import BaseDataset
from torch import nn

from dinor1.evaluation.prompt_protocols import EvaluationPrompts, PromptProtocol, VisualGeneric
from dinor1.evaluation.seeds import non_negative
from dinor1.registry import TASK_UTILS
from dinor1.utils.errors import InputError


@TASK_UTILS.register_module()
class SingleClass(PromptProtocol):
    """Offer one class for each image; for half of the images, on average, one that the image does not show.

    Prompts are those of :class:`~dinor1.evaluation.VisualGeneric`, mean embeddings of instances on other images,
    because an image that does not show the class has no exemplar. The metric is
    :class:`~dinor1.evaluation.AbsenceMetric`.

    A class that is not annotated in an image counts as absent. Annotations must therefore be exhaustive, which those of
    merged data sets with different classes are not.

    Args:
        dataset: Data set of the exemplars, or its config.
        num_exemplars: Maximum number of instances per class, at least 1.
        seed: Seed of the draws of exemplars and of classes.
    """

    def __init__(self, dataset: dict | BaseDataset, num_exemplars: int = 16, seed: int = 0) -> None:
        self._generic = VisualGeneric(dataset, num_exemplars, seed)
        self.dataset, self.num_exemplars, self.seed = self._generic.dataset, num_exemplars, seed

    def with_seed(self, seed: int) -> 'SingleClass':
        """See :meth:`~dinor1.evaluation.PromptProtocol.with_seed`."""
        return SingleClass(self.dataset, self.num_exemplars, seed)

    def num_images_to_encode(self) -> int:
        """See :meth:`~dinor1.evaluation.PromptProtocol.num_images_to_encode`."""
        return self._generic.num_images_to_encode()

    def prepare(
        self, model: nn.Module, dataset: BaseDataset, progress: Callable[[], None] | None = None
    ) -> EvaluationPrompts:
        """See :meth:`~dinor1.evaluation.PromptProtocol.prepare`."""
        prompts = self._generic.prepare(model, dataset, progress)
        offered = prompts.shared.reported.tolist()
        return dataclasses.replace(
            prompts,
            description=prompts.description | dict(protocol='single-class'),
            file_stem=f'prompts_single-class_n{self.num_exemplars}_seed{self.seed}',
            asked=draw_classes(dataset, offered, self.seed),
        )


def draw_classes(dataset: BaseDataset, offered: Collection[int], seed: int = 0) -> dict[int, int]:
    """Draw the class that is offered for each image.

    Shown and absent classes are chosen with equal probability; then all classes of this kind are equally likely. If
    there is no class of this kind, the other kind is taken. The draw depends on the annotations of the image,
    ``offered`` and ``seed`` only. A class of which an image shows only crowds or ignored boxes is neither shown nor
    absent, and is not drawn.

    Args:
        dataset: The evaluated data set, in MMDetection's format.
        offered: Labels of the classes that have a prompt; not empty.
        seed: Any integer.

    Returns:
        Image id -> label. An image without a shown or absent class gets an arbitrary class.

    Raises:
        InputError: no class has a prompt.
    """
    if not offered:
        raise InputError('SingleClass: no class of the evaluated set has a prompt; use another prompt data set')
    asked = {}
    for index in range(len(dataset)):
        # Find the shown and the absent classes.
        info = dataset.get_data_info(index)
        shown = {i['bbox_label'] for i in info['instances'] if not i.get('ignore_flag', 0)}
        unclear = {i['bbox_label'] for i in info['instances']} - shown
        sides = [sorted(shown & {*offered}), sorted({*offered} - shown - unclear)]
        # Draw with a generator of the image's own.
        generator = np.random.default_rng([non_negative(seed), zlib.crc32(str(info['img_id']).encode())])
        first = int(generator.integers(2))
        side = sides[first] or sides[1 - first] or sorted(offered)
        asked[info['img_id']] = int(side[generator.integers(len(side))])
    return asked
