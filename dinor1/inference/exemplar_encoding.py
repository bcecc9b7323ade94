"""Embeddings of boxes on reference images: as a bank of mean embeddings, or one by one with the features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinor1.models import DINOR1
from dinor1.structures import PromptBank, PromptSet
from dinor1.utils.class_names import class_key, distinct_names
from dinor1.utils.errors import InputError

from .adaptation import AnnotatedImage
from .arguments import as_list
from .image_input import ImageLike, as_path_or_array
from .operating_point import ExemplarSimilarity, exemplar_similarity
from .preparation import ImagePreparation
from .prompt_regions import as_regions, region_boxes
from .visual_prompt import VisualPrompt, as_boxes, as_names, clip_boxes


def exemplar_bank(
    model: DINOR1,
    preparation: ImagePreparation,
    visual: Sequence[VisualPrompt],
    fingerprint: str,
    batch_size: int = 8,
) -> PromptBank:
    """Bank of boxes on reference images: the mean embedding of each class.

    Args:
        model: The detector.
        preparation: Its test pipeline.
        visual: Boxes, points or masks on reference images; at least one.
        fingerprint: Fingerprint of the detector.
        batch_size: Maximum number of images per forward pass.

    Raises:
        InputError: an image, a box or a name is invalid.
    """
    # Check images, boxes and names.
    images = [as_path_or_array(item.image, f'reference image {i}') for i, item in enumerate(visual)]
    wheres = [visual[i].source or _describe(image, i) for i, image in enumerate(images)]
    boxes = [as_regions(v.boxes, where, v.normalized) for v, where in zip(visual, wheres, strict=True)]
    labels = [as_names(v.names, len(b), where) for v, b, where in zip(visual, boxes, wheres, strict=True)]
    names = distinct_names(name for group in labels for name in group)
    keys = [class_key(name) for name in names]
    # Embed the boxes of each image, scaled to the network input.
    rows: list[Tensor] = [torch.empty(0)] * len(images)
    row_labels = list(rows)
    for indices, data in preparation.batches(images, batch_size):
        samples, scaled = data['data_samples'], []
        for i, sample in zip(indices, samples, strict=True):
            pixels = region_boxes(boxes[i], sample.ori_shape, wheres[i], visual[i].normalized)
            box = data['inputs'].new_tensor(pixels)
            scaled.append(box * box.new_tensor(sample.scale_factor).repeat(2))
        features = model.encode_image(data['inputs'], samples)
        indexed = [
            torch.tensor([keys.index(class_key(name)) for name in labels[i]], dtype=torch.long, device=scaled[0].device)
            for i in indices
        ]
        embeddings, parts = model.encode_exemplars(features, scaled, indexed, [s.img_shape for s in samples])
        lengths = [len(part) for part in parts]
        for i, row, part in zip(indices, embeddings.float().cpu().split(lengths), parts, strict=True):
            rows[i], row_labels[i] = row, part.cpu()
    # Average over the embeddings of each class, and count its boxes.
    means = PromptSet.from_exemplars(torch.cat(rows), torch.cat(row_labels), names).embeddings
    index = torch.tensor([keys.index(class_key(name)) for group in labels for name in group])
    return PromptBank(means, tuple(names), tuple(index.bincount().tolist()), fingerprint)


def encode_annotated(
    model: DINOR1,
    preparation: ImagePreparation,
    images: Sequence[ImageLike],
    boxes: Sequence[Any],
    names: Sequence[str | Sequence[str]],
) -> list[AnnotatedImage]:
    """Features of images, and prompt embeddings of their boxes, one image at a time.

    Args:
        model: The detector.
        preparation: Its test pipeline.
        images: Images, see :data:`~dinor1.inference.image_input.ImageLike`.
        boxes: Per image (m, 4) pixel xyxy, m >= 1.
        names: Per image one name, or m names.

    Raises:
        InputError: there is no image, the lengths differ, or an image, a box or a name is invalid.
    """
    # Check the arguments.
    images, boxes, names = as_list(images, 'images'), as_list(boxes, 'boxes'), as_list(names, 'names')
    if not images or not len(images) == len(boxes) == len(names):
        raise InputError(
            f'expected boxes and names for each of {len(images)} images, at least one, got {len(boxes)} and '
            f'{len(names)}'
        )
    encoded = []
    for i, (item, box, name) in enumerate(zip(images, boxes, names, strict=True)):
        # Scale the boxes to the network input.
        image = as_path_or_array(item, f'image {i}')
        where = _describe(image, i)
        pixels = as_boxes(box, where)
        ((_, data),) = preparation.batches([image], 1)
        (sample,) = data['data_samples']
        scaled = data['inputs'].new_tensor(clip_boxes(pixels, sample.ori_shape, where))
        scaled = scaled * scaled.new_tensor(sample.scale_factor).repeat(2)
        # Encode image and boxes.
        features = model.encode_image(data['inputs'], [sample])
        embeddings = model.encode_boxes(features, [scaled], [sample.img_shape])
        encoded.append(AnnotatedImage(features, sample, scaled, as_names(name, len(pixels), where), embeddings))
    return encoded


def annotated_similarity(images: Sequence[AnnotatedImage]) -> ExemplarSimilarity:
    """Compare the embeddings of the boxes of the images; at least one box in all."""
    labels = [name for image in images for name in image.names]
    rows = torch.cat([image.embeddings for image in images]).float().cpu()
    return exemplar_similarity(rows.numpy(), np.array(labels))


def _describe(image: str | np.ndarray, position: int) -> str:
    """Name of a reference image, for error messages."""
    return image if isinstance(image, str) else f'image {position} (array)'
