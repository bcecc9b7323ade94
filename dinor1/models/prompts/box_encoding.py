"""Prompt embeddings of boxes in pixels: of given boxes, and of exemplars sampled from a training batch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_convert

from dinor1.structures import ImageFeatures
from dinor1.utils.precision import compute_dtype

from .sampling import PromptDraw
from .visual import VisualPromptEncoder


def encode_boxes(
    prompt_encoder: VisualPromptEncoder,
    features: ImageFeatures,
    boxes: Sequence[Tensor],
    image_shapes: Sequence[tuple[int, int]],
) -> Tensor:
    """Visual prompt embeddings of boxes on the images of ``features``.

    Args:
        prompt_encoder: The encoder.
        features: Features of the batch.
        boxes: Per image (m, 4) pixel xyxy of the network input; not all may be empty.
        image_shapes: Per image (height, width) in pixels, without padding.

    Returns:
        (sum of m, C) in the order of the images.
    """
    # Normalise the boxes, and pad them to the largest number of boxes in an image.
    longest = max(len(box) for box in boxes)
    dtype = compute_dtype(features.feat)
    padded = features.feat.new_full((len(boxes), longest, 4), 0.5, dtype=dtype)
    valid = torch.zeros(len(boxes), longest, dtype=torch.bool, device=padded.device)
    for i, (box, (height, width)) in enumerate(zip(boxes, image_shapes, strict=True)):
        normalised = box / box.new_tensor([width, height, width, height])
        padded[i, : len(box)] = box_convert(normalised, 'xyxy', 'cxcywh')
        valid[i, : len(box)] = True
    # Encode all rows, and drop the padding.
    return prompt_encoder(padded, features)[valid]


def drawn_prompts(
    prompt_encoder: VisualPromptEncoder,
    features: ImageFeatures,
    boxes: Sequence[Tensor],
    image_shapes: Sequence[tuple[int, int]],
    draw: PromptDraw,
    every_box: bool = False,
) -> tuple[Tensor, Tensor]:
    """Embeddings of the drawn exemplars.

    Embeddings do not depend on each other: only the drawn boxes are encoded, unless ``every_box`` is set or prompts are
    weighted means.

    Args:
        prompt_encoder: The encoder.
        features: Features of the batch.
        boxes: Per image (m, 4) pixel xyxy of the network input.
        image_shapes: Per image (height, width) in pixels, without padding.
        draw: Which of the boxes are exemplars.
        every_box: Encode all boxes.

    Returns:
        Embeddings of the prompts in the order of the draw, (K, C), or (bs, K, C) if every image has its own; and (n, C)
        of all encoded boxes in the order of the images.
    """
    boxes = list(boxes)
    # Prompt a batch without boxes with the whole first image.
    if draw.labels[0] < 0:
        height, width = image_shapes[0]
        boxes = [boxes[0].new_tensor([[0, 0, width, height]])] + [box[:0] for box in boxes[1:]]
    # Encode all boxes, and average them,
    if draw.weights is not None:
        instances = encode_boxes(prompt_encoder, features, boxes, image_shapes)
        return draw.weights.to(instances.dtype) @ instances, instances
    # or pick the drawn ones,
    image, index = draw.image, draw.box.clamp(min=0)
    if every_box:
        instances = encode_boxes(prompt_encoder, features, boxes, image_shapes)
        start = torch.tensor([0] + [len(box) for box in boxes[:-1]], device=image.device).cumsum(0)
        return instances[start[image] + index], instances
    # or encode the drawn boxes only.
    drawn = [box[index[image == i]] for i, box in enumerate(boxes)]
    instances = encode_boxes(prompt_encoder, features, drawn, image_shapes)
    # Sort the embeddings from the order of the images, which encode_boxes returns, to the order of the draw.
    return instances[image.argsort(stable=True).argsort()], instances


def mean_by_class(instances: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Mean (K, C) of the embeddings (n, C) of each class, given labels (n,); each of the classes (K,) must occur."""
    member = (labels[None] == classes[:, None]).to(instances.dtype)
    return member @ instances / member.sum(1, keepdim=True)


def mean_by_image_and_class(instances: Tensor, labels: Sequence[Tensor], classes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean embedding of the boxes of each class on each image.

    Args:
        instances: (n, C) embeddings of all boxes, in the order of the images.
        labels: Per image (m,) class indices.
        classes: (K,) distinct class indices, ascending; every label must occur.

    Returns:
        Means (M, C), one for each image and class that occurs on it, ordered by image and then by class; and (M,) the
        index of each mean's class in ``classes``.
    """
    # Number the pairs of image and class.
    counts = torch.tensor([len(label) for label in labels], device=classes.device)
    image = torch.repeat_interleave(torch.arange(len(labels), device=classes.device), counts)
    pair = image * len(classes) + torch.searchsorted(classes, torch.cat(list(labels)))
    # Average the boxes of each pair.
    pairs = pair.unique()
    return mean_by_class(instances, pair, pairs), pairs % len(classes)
