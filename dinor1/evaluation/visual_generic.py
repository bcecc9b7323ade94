"""Visual-generic prompts: each class is the mean embedding of a few instances from other images.

The protocol of T-Rex2 (arXiv 2403.14610) and DINO-R1 (arXiv 2505.24025).
"""

import zlib
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from torch import nn

from dinor1.evaluation.seeds import non_negative
from dinor1.structures import PromptBank, PromptSet
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint


class Exemplar(NamedTuple):
    """One instance that serves as a prompt.

    Attributes:
        img_id: Image id in the annotation file.
        index: Index of the image in the data set.
        bbox: (x1, y1, x2, y2) pixels of the original image.
        label: Class index.
    """

    img_id: int
    index: int
    bbox: tuple[float, float, float, float]
    label: int


def candidates_of(info: dict, index: int) -> list[Exemplar]:
    """All instances of an image that may serve as a prompt, without crowds and ignored boxes.

    Args:
        info: ``dataset.get_data_info(index)``.
        index: Index of the image in the data set.
    """
    return [
        Exemplar(info['img_id'], index, tuple(instance['bbox']), instance['bbox_label'])
        for instance in info['instances']
        if not instance.get('ignore_flag', 0)
    ]


def draw_exemplars(
    dataset: BaseDataset, num_exemplars: int = 16, seed: int = 0, whole_images: bool = False
) -> list[Exemplar]:
    """Draw up to ``num_exemplars`` instances of every class, without replacement.

    The draw depends on the annotations, ``num_exemplars`` and ``seed`` only, not on the order of the images; the draw
    of a class does not depend on other classes. Crowd and ignored boxes are never drawn.

    Args:
        dataset: Data set in MMDetection's format; its ``metainfo['classes']`` are the classes.
        num_exemplars: Maximum number of instances per class, at least 1.
        seed: Any integer.
        whole_images: Draw up to ``num_exemplars`` images per class instead, with all instances of the class on them.

    Returns:
        Exemplars in the order of the images. A class without instances has none.

    Raises:
        InputError: ``num_exemplars`` is not positive, or the data set has no instance at all.
    """
    if num_exemplars < 1:
        raise InputError(f'num_exemplars must be at least 1, got {num_exemplars}')
    # Collect the instances of each class.
    candidates: dict[int, list[Exemplar]] = {}
    for index in range(len(dataset)):
        for exemplar in candidates_of(dataset.get_data_info(index), index):
            candidates.setdefault(exemplar.label, []).append(exemplar)
    if not candidates:
        raise InputError(f'{dataset.ann_file}: no instance to take as a visual prompt; use another prompt data set')
    # Draw with a generator for each class.
    drawn = []
    for label, exemplars in candidates.items():
        exemplars.sort(key=lambda e: (e.img_id, e.bbox))
        name = dataset.metainfo['classes'][label]
        generator = np.random.default_rng([non_negative(seed), zlib.crc32(name.encode())])
        # The units of the draw are instances or images, in an order that depends on the annotations only.
        units = [[exemplar] for exemplar in exemplars]
        if whole_images:
            units = [list(group) for _, group in groupby(exemplars, key=lambda e: e.index)]
        chosen = generator.permutation(len(units))[:num_exemplars]
        drawn += [exemplar for i in chosen for exemplar in units[i]]
    return sorted(drawn, key=lambda e: (e.index, e.label, e.bbox))


@torch.no_grad()
def embed_exemplars(
    model: nn.Module,
    dataset: BaseDataset,
    exemplars: Sequence[Exemplar],
    progress: Callable[[], None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed exemplars.

    Images are encoded one at a time. In a batch, they would be padded to one size; because padding affects
    convolutions, an embedding would depend on the other images of the batch. A prompt encoder that aggregates boxes
    encodes the exemplars of a class on an image together.

    Args:
        model: A :class:`dinor1.models.DINOR1`; its mode (train or eval) is restored.
        dataset: The data set that the exemplars were drawn from, with a test pipeline.
        exemplars: From :func:`draw_exemplars`.
        progress: Called after each image.

    Returns:
        Embeddings (n, C) in float32 on the CPU, and class indices (n,), in the order of ``exemplars``; with an
        aggregating encoder one row per image and class, in the order of the images and of the class indices.
    """
    was_training = model.training
    model.eval()
    embeddings, labels = [], []
    try:
        for index, group in groupby(exemplars, key=lambda e: e.index):
            # Load an image, and scale its exemplars to the network input.
            group = list(group)
            data = model.data_preprocessor(pseudo_collate([dataset[index]]), False)
            samples = data['data_samples']
            boxes = torch.tensor([e.bbox for e in group], dtype=torch.float32, device=data['inputs'].device)
            boxes = boxes * boxes.new_tensor(samples[0].scale_factor).repeat(2)
            # Embed them.
            features = model.encode_image(data['inputs'], samples)
            classes = torch.tensor([e.label for e in group], device=boxes.device)
            rows, row_labels = model.encode_exemplars(features, [boxes], [classes], [samples[0].img_shape])
            embeddings.append(rows.float().cpu())
            labels.append(row_labels[0].cpu())
            if progress is not None:
                progress()
    finally:
        model.train(was_training)
    return torch.cat(embeddings), torch.cat(labels)


def build_bank(
    model: nn.Module,
    dataset: BaseDataset,
    exemplars: Sequence[Exemplar],
    progress: Callable[[], None] | None = None,
) -> PromptBank:
    """Embed exemplars and average them per class.

    Args:
        model: See :func:`embed_exemplars`.
        dataset: See :func:`embed_exemplars`.
        exemplars: See :func:`embed_exemplars`.
        progress: See :func:`embed_exemplars`.

    Returns:
        A bank of the classes that have at least one exemplar, in the data set's order.
    """
    return average_exemplars(model, dataset, exemplars, *embed_exemplars(model, dataset, exemplars, progress))


def average_exemplars(
    model: nn.Module,
    dataset: BaseDataset,
    exemplars: Sequence[Exemplar],
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> PromptBank:
    """Bank of the mean embedding of each class.

    Args:
        model: See :func:`embed_exemplars`.
        dataset: See :func:`embed_exemplars`.
        exemplars: See :func:`embed_exemplars`.
        embeddings: (n, C) from :func:`embed_exemplars`.
        labels: (n,) class indices of the rows.
        weights: (n,) weights of the rows, which sum to 1 for each class; None: every row has the same weight.

    Returns:
        A bank of the classes that have at least one exemplar, in the data set's order.
    """
    present = labels.unique()
    names = dataset.metainfo['classes']
    if weights is not None:
        # The mean of the rows, each multiplied by its weight and the number of rows of its class.
        embeddings = embeddings * (weights * labels.bincount()[labels])[:, None]
    means = PromptSet.from_exemplars(embeddings, labels, names).embeddings[present]
    counts = torch.tensor([exemplar.label for exemplar in exemplars]).bincount(minlength=len(names))[present]
    return PromptBank(means, tuple(names[i] for i in present.tolist()), tuple(counts.tolist()), fingerprint(model))
