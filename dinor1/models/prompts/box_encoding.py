"""Prompt embeddings of boxes in pixels: of given boxes, and of exemplars sampled from a training batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.ops import box_convert

from dinor1.structures import ImageFeatures
from dinor1.utils.precision import compute_dtype

from .aggregating import AggregatingPromptEncoder
from .prototypes import class_prototypes
from .sampling import PromptDraw
from .visual import VisualPromptEncoder

PromptEncoder = VisualPromptEncoder | AggregatingPromptEncoder


def encode_boxes(
    prompt_encoder: PromptEncoder,
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
    padded, valid = _padded(features, boxes, image_shapes)
    # Encode all rows, and drop the padding.
    return prompt_encoder(padded, features)[valid]


def encode_pairs(
    prompt_encoder: PromptEncoder,
    features: ImageFeatures,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    image_shapes: Sequence[tuple[int, int]],
) -> Tensor:
    """One embedding per pair of an image and a class on it.

    An aggregating encoder encodes the boxes of a pair together; otherwise their embeddings are averaged.

    Args:
        prompt_encoder: The encoder.
        features: Features of the batch.
        boxes: Per image (m, 4) pixel xyxy of the network input; not all may be empty.
        labels: Per image (m,) class index of each box.
        image_shapes: Per image (height, width) in pixels, without padding.

    Returns:
        (P, C) in the order of the images, and on an image in the order of the class indices.
    """
    # Average the embeddings of single boxes.
    if not prompt_encoder.aggregates:
        instances = encode_boxes(prompt_encoder, features, boxes, image_shapes).split([len(box) for box in boxes])
        means = [class_prototypes(*pair)[0] for pair in zip(instances, labels, strict=True) if len(pair[1])]
        return torch.cat(means)
    # Or number the classes of each image, and encode their boxes together.
    padded, valid = _padded(features, boxes, image_shapes)
    groups = torch.full(valid.shape, -1, device=valid.device)
    counts = torch.zeros(len(boxes), dtype=torch.long, device=valid.device)
    for i, label in enumerate(labels):
        classes, groups[i, : len(label)] = label.unique(return_inverse=True)
        counts[i] = len(classes)
    embeddings = prompt_encoder(padded, features, groups)
    return embeddings[torch.arange(embeddings.shape[1], device=counts.device) < counts[:, None]]


def encode_exemplars(
    prompt_encoder: PromptEncoder,
    features: ImageFeatures,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    image_shapes: Sequence[tuple[int, int]],
) -> tuple[Tensor, list[Tensor]]:
    """Embeddings of exemplars whose classes are known: one per box, or one per image and class.

    Args:
        prompt_encoder: The encoder.
        features: Features of the batch.
        boxes: Per image (m, 4) pixel xyxy of the network input; not all may be empty.
        labels: Per image (m,) class index of each box.
        image_shapes: Per image (height, width) in pixels, without padding.

    Returns:
        (n, C) embeddings in the order of the images, and per image the class indices of its rows: one row per box, or
        with an aggregating encoder one row per class, ascending.
    """
    if not prompt_encoder.aggregates:
        return encode_boxes(prompt_encoder, features, boxes, image_shapes), list(labels)
    embeddings = encode_pairs(prompt_encoder, features, boxes, labels, image_shapes)
    return embeddings, [label.unique() for label in labels]


def _padded(
    features: ImageFeatures, boxes: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Boxes (bs, M, 4) as normalised cxcywh, padded to the largest number in an image, and (bs, M) True = a box."""
    # Padding is a box in the middle of the image, so that all numbers are finite.
    longest = max(len(box) for box in boxes)
    dtype = compute_dtype(features.feat)
    padded = features.feat.new_full((len(boxes), longest, 4), 0.5, dtype=dtype)
    valid = torch.zeros(len(boxes), longest, dtype=torch.bool, device=padded.device)
    # Fill in the boxes of each image.
    for i, (box, (height, width)) in enumerate(zip(boxes, image_shapes, strict=True)):
        normalised = box / box.new_tensor([width, height, width, height])
        padded[i, : len(box)] = box_convert(normalised, 'xyxy', 'cxcywh')
        valid[i, : len(box)] = True
    return padded, valid


def drawn_prompts(
    prompt_encoder: PromptEncoder,
    features: ImageFeatures,
    boxes: Sequence[Tensor],
    image_shapes: Sequence[tuple[int, int]],
    draw: PromptDraw,
    every_box: bool = False,
    gather: Callable[[Tensor], Tensor] | None = None,
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
        gather: Concatenates the rows (P, C) of all processes, if the draw has weights for them; None: there is one
            process.

    Returns:
        Embeddings of the prompts in the order of the draw, (K, C), or (bs, K, C) if every image has its own; and (n, C)
        of all encoded boxes in the order of the images, or of the image-class pairs if the draw consists of pairs.
    """
    boxes, exemplars = list(boxes), draw.exemplars
    # Prompt a batch without boxes with the whole first image.
    if draw.box[0] < 0:
        height, width = image_shapes[0]
        boxes = [boxes[0].new_tensor([[0, 0, width, height]])] + [box[:0] for box in boxes[1:]]
        if exemplars is not None:
            exemplars = [torch.zeros(len(box), dtype=torch.long, device=draw.box.device) for box in boxes]
    # Encode the exemplars of each pair of image and class, and average the pairs or pick the drawn ones.
    if exemplars is not None:
        chosen = [exemplar >= 0 for exemplar in exemplars]
        boxes, classes = (
            [tensor[keep] for tensor, keep in zip(tensors, chosen, strict=True)] for tensors in (boxes, exemplars)
        )
        pairs = encode_pairs(prompt_encoder, features, boxes, classes, image_shapes)
        if draw.weights is not None:
            rows = pairs if gather is None else gather(pairs)
            return draw.weights.to(rows.dtype) @ rows, pairs
        counts = [len(label.unique()) for label in classes]
        start = torch.tensor([0, *counts[:-1]], device=draw.image.device).cumsum(0)
        return pairs[start[draw.image] + draw.box.clamp(min=0)], pairs
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
