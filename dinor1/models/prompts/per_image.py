"""Conversion of prompts in any form to one prompt set per image."""

from collections.abc import Callable, Sequence

from torch import Tensor

from dinor1.structures import ImageFeatures, Prompts, PromptSet
from dinor1.utils.precision import at_least_float32

# Encodes boxes on images: features, boxes per image, their classes, image sizes -> (n, C), classes of the rows per
# image; see `encode_exemplars`.
EncodeExemplars = Callable[
    [ImageFeatures, Sequence[Tensor], Sequence[Tensor], Sequence[tuple[int, int]]], tuple[Tensor, list[Tensor]]
]


def prompts_per_image(
    prompts: Prompts,
    features: ImageFeatures,
    image_shapes: Sequence[tuple[int, int]],
    encode: EncodeExemplars,
    refine: Callable[[PromptSet], PromptSet] | None = None,
) -> list[PromptSet]:
    """One prompt set per image, on the device of the features.

    Args:
        prompts: One set for all images, or one entry per image, which may be boxes on that image.
        features: Features of the images.
        image_shapes: Per image (height, width) in pixels, without padding.
        encode: Function that encodes boxes.
        refine: Function that is applied to every resulting set; None: the sets are returned as they are.

    Raises:
        ValueError: the number of prompts differs from the number of images.
    """
    # Give all images the same set,
    device = features.feat.device
    if isinstance(prompts, PromptSet):
        shared = prompts.to(device)
        return [shared if refine is None else refine(shared)] * features.batch_size
    if len(prompts) != features.batch_size:
        raise ValueError(f'expected prompts for {features.batch_size} images, got {len(prompts)}')
    # or convert the entry of each image.
    sets = []
    for i, (item, shape) in enumerate(zip(prompts, image_shapes, strict=True)):
        if isinstance(item, PromptSet):
            sets.append(item.to(device))
        elif not len(item.boxes):
            sets.append(PromptSet.nothing(item.names, at_least_float32(features.feat[:1, :1])))
        else:
            embeddings, (labels,) = encode(features.image(i), [item.boxes], [item.labels.to(device)], [shape])
            sets.append(PromptSet.from_exemplars(embeddings, labels, item.names))
    return sets if refine is None else [refine(prompts) for prompts in sets]
