"""One class asked of each image, which shows it or does not: does the detector know when there is nothing?"""

import dataclasses
import zlib
from collections.abc import Callable, Collection

import numpy as np
from mmengine.dataset import BaseDataset
from torch import nn

from dinor1.evaluation.prompt_protocols import EvaluationPrompts, PromptProtocol, VisualGeneric
from dinor1.registry import TASK_UTILS
from dinor1.utils.errors import InputError


@TASK_UTILS.register_module()
class SingleClass(PromptProtocol):
    """Offer one class on each image; on every other image, on average, one that the image does not show.

    The prompt is that of :class:`~dinor1.evaluation.VisualGeneric`, the mean of instances on other images: an image
    without the thing has none of its own. :class:`~dinor1.evaluation.AbsenceMetric` is the metric for it.

    A class that is not annotated in an image counts as absent, so that the annotations must be exhaustive: those of
    merged data sets with different classes are not.

    Args:
        dataset: Config of the data set that exemplars are drawn from, or the data set.
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
    """Draw the class that each image is asked for.

    A coin decides whether the image shows it; then all classes that it shows, or does not, are equally likely. Where
    there is none on the side of the coin, as with a single class, the other side is taken. The draw depends on the
    annotations of the image, ``offered`` and ``seed`` only. A class of which an image shows crowds or ignored boxes
    alone is neither shown nor absent, and never drawn.

    Args:
        dataset: The evaluated data set, in MMDetection's form.
        offered: Labels of the classes that have a prompt; not empty.
        seed: Any integer.

    Returns:
        Label by image id. An image of which nothing can be asked has an arbitrary class.

    Raises:
        InputError: no class has a prompt.
    """
    if not offered:
        raise InputError('SingleClass: no class of the evaluated set has a prompt; use another prompt data set')
    asked = {}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        shown = {i['bbox_label'] for i in info['instances'] if not i.get('ignore_flag', 0)}
        unclear = {i['bbox_label'] for i in info['instances']} - shown
        sides = [sorted(shown & {*offered}), sorted({*offered} - shown - unclear)]
        generator = np.random.default_rng([abs(seed), zlib.crc32(str(info['img_id']).encode())])
        first = int(generator.integers(2))
        side = sides[first] or sides[1 - first] or sorted(offered)
        asked[info['img_id']] = int(side[generator.integers(len(side))])
    return asked
