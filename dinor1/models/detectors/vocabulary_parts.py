"""Splitting a large vocabulary over several passes, and merging their detections."""

import sys
from collections.abc import Sequence

from mmengine.structures import InstanceData

from dinor1.structures import PromptSet


def split_vocabulary(prompt_sets: Sequence[PromptSet], chunked_size: int) -> list[list[PromptSet]]:
    """Distribute the classes of each image over several passes.

    Args:
        prompt_sets: Per image, the whole vocabulary.
        chunked_size: Maximum number of classes in one pass; below 1: all classes in one pass.

    Returns:
        Per pass, one prompt set per image; images without further classes get a set that searches for nothing.
    """
    # Split the vocabulary of each image, and regroup the parts by pass.
    parts = [prompts.split(sys.maxsize if chunked_size < 1 else chunked_size) for prompts in prompt_sets]
    return [
        [
            part[i] if i < len(part) else PromptSet.nothing(whole.names, whole.embeddings)
            for part, whole in zip(parts, prompt_sets, strict=True)
        ]
        for i in range(max(map(len, parts)))
    ]


def best_of_passes(instances: Sequence[InstanceData], limit: int | None) -> InstanceData:
    """Merge the detections of all passes over one image, and keep the ``limit`` highest scores (None: all)."""
    if len(instances) == 1:
        return instances[0]
    merged = InstanceData.cat(list(instances))
    order = merged.scores.argsort(descending=True, stable=True)
    return merged[order[:limit]]
