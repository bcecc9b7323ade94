"""A vocabulary that is offered in parts, and the detections of all parts put together."""

import sys
from collections.abc import Sequence

from mmengine.structures import InstanceData

from dinor1.structures import PromptSet


def split_vocabulary(prompt_sets: Sequence[PromptSet], chunked_size: int) -> list[list[PromptSet]]:
    """Per pass, what each image is offered.

    Args:
        prompt_sets: Per image, the whole vocabulary.
        chunked_size: Most classes in one pass; below 1: all of them at once.
    """
    parts = [prompts.split(sys.maxsize if chunked_size < 1 else chunked_size) for prompts in prompt_sets]
    return [
        [
            part[i] if i < len(part) else PromptSet.nothing(whole.names, whole.embeddings)
            for part, whole in zip(parts, prompt_sets, strict=True)
        ]
        for i in range(max(map(len, parts)))
    ]


def best_of_passes(instances: Sequence[InstanceData], limit: int | None) -> InstanceData:
    """The ``limit`` highest scores of all passes over an image; None: all of them."""
    if len(instances) == 1:
        return instances[0]
    merged = InstanceData.cat(list(instances))
    order = merged.scores.argsort(descending=True, stable=True)
    return merged[order[:limit]]
