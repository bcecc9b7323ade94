"""Prompts of earlier iterations, which are offered again as additional classes.

PET-DINO (arXiv 2604.00503): a small batch shows few classes, so that its images have few negatives. A memory of the
latest prompts of every class supplies more.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from dinor1.utils.errors import InputError
from dinor1.utils.precision import at_least_float32

from .prototypes import class_prototypes


class RememberedPrompt(NamedTuple):
    """A prompt of an earlier iteration.

    Attributes:
        name: Name of its class.
        image: Key of the image that its exemplars lie on, see :func:`image_keys`.
        embedding: (C,) without gradient.
    """

    name: str
    image: Any
    embedding: Tensor


class RecalledPrompts(NamedTuple):
    """Columns for the images of a batch.

    Attributes:
        names: R class names.
        embeddings: (bs, R, C); zeros where no embedding is available.
        available: (bs, R) True = other images than this one have shown the class.
    """

    names: list[str]
    embeddings: Tensor
    available: Tensor


def image_keys(samples: Sequence[DetDataSample]) -> list[Any]:
    """Identify the images of a batch: by path, because data sets that are trained together may share ids."""
    return [sample.get('img_path', sample.get('img_id')) for sample in samples]


def remembered_prompts(
    instances: Tensor, labels: Sequence[Tensor], images: Sequence[Any], classes: Sequence[str] | None
) -> list[RememberedPrompt]:
    """The prompts of a batch for a memory: one for every class on every image.

    Args:
        instances: (n, C) embeddings of boxes or of pairs of an image and a class, image by image.
        labels: Per image the class indices of its embeddings; all empty: nothing is remembered.
        images: From :func:`image_keys`.
        classes: Class names indexed by ``labels``.
    """
    if classes is None or not any(len(label) for label in labels):
        return []
    # Split the embeddings by image.
    rows = at_least_float32(instances.detach()).split([len(label) for label in labels])
    prompts = []
    # Average the embeddings of each class on an image.
    for embeddings, label, image in zip(rows, labels, images, strict=True):
        means, distinct = class_prototypes(embeddings, label)
        names = [classes[i] for i in distinct.tolist()]
        prompts += [RememberedPrompt(name, image, mean) for name, mean in zip(names, means, strict=True)]
    return prompts


class PromptMemory:
    """The latest prompts of every class, first in, first out.

    Args:
        length: Maximum number of prompts of a class, at least 1.
        classes_per_step: Maximum number of classes that are recalled in an iteration, at least 1.

    Attributes:
        pending: Prompts of the current iteration, which :meth:`store` adds when the iteration is over.

    Raises:
        InputError: a number is not positive.
    """

    def __init__(self, length: int = 16, classes_per_step: int = 40) -> None:
        if length < 1 or classes_per_step < 1:
            raise InputError(
                f'prompt memory: length and classes_per_step must be at least 1, got {length} and {classes_per_step}'
            )
        self.length, self.classes_per_step = length, classes_per_step
        self.pending: list[RememberedPrompt] = []
        self._prompts: dict[str, deque[RememberedPrompt]] = {}

    def store(self, prompts: Sequence[RememberedPrompt]) -> None:
        """Add prompts; the oldest ones of a full class are dropped."""
        for prompt in prompts:
            self._prompts.setdefault(prompt.name, deque(maxlen=self.length)).append(prompt)

    def recall(self, images: Sequence[Any]) -> RecalledPrompts | None:
        """Draw classes with torch's global generator, and average the prompts of each.

        Args:
            images: From :func:`image_keys`. An image's own earlier prompts are left out of its columns, because they
                were computed from its ground truth.

        Returns:
            The columns; None if the memory is empty.
        """
        if not self._prompts:
            return None
        # Draw the classes.
        known = sorted(self._prompts)
        names = [known[i] for i in torch.randperm(len(known))[: self.classes_per_step].sort().values.tolist()]
        # Average, for every image, the prompts that come from other images.
        columns = [self._column(self._prompts[name], images) for name in names]
        embeddings, available = (torch.stack(tensors, 1) for tensors in zip(*columns, strict=True))
        return RecalledPrompts(names, embeddings, available)

    @staticmethod
    def _column(prompts: Sequence[RememberedPrompt], images: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Mean (bs, C) of the prompts of a class that come from other images, and (bs,) True = there are some."""
        embeddings = torch.stack([prompt.embedding for prompt in prompts])
        others = torch.tensor(
            [[prompt.image != image for prompt in prompts] for image in images], device=embeddings.device
        )
        counts = others.sum(1)
        return others.to(embeddings.dtype) @ embeddings / counts.clamp(min=1)[:, None], counts > 0

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs: image keys and embeddings of each class, on the CPU."""
        return {
            name: dict(
                images=[prompt.image for prompt in prompts],
                embeddings=torch.stack([prompt.embedding for prompt in prompts]).cpu(),
            )
            for name, prompts in self._prompts.items()
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = 'cpu') -> None:
        """Replace all prompts by those of :meth:`state_dict`."""
        self.pending, self._prompts = [], {}
        for name, prompts in state.items():
            rows = prompts['embeddings'].to(device)
            self.store([RememberedPrompt(name, *pair) for pair in zip(prompts['images'], rows, strict=True)])
