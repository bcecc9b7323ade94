"""Detections of a batch: passes over the parts of a large vocabulary, and their merged results."""

from typing import TYPE_CHECKING

from mmdet.structures import DetDataSample

from dinor1.structures import DetectorOutput, ImageFeatures, PromptBatch, Prompts, PromptSet
from dinor1.utils.precision import at_least_float32, full_precision

from .duplicates import remove_duplicates
from .rescoring import rescored_detections
from .vocabulary_parts import best_of_passes, split_vocabulary

if TYPE_CHECKING:
    from .dino_r1 import DINOR1


def batch_detections(
    model: 'DINOR1', features: ImageFeatures, samples: list[DetDataSample], prompts: Prompts, rescale: bool = True
) -> tuple[list[DetDataSample], list[tuple[DetectorOutput, list[PromptSet]]]]:
    """Detections of encoded images, and the intermediate results; arguments and results of ``DINOR1.detect``."""
    prompt_sets = model.prompt_sets(features, samples, prompts)
    # Detect the classes of each part of the vocabulary.
    parts = split_vocabulary(prompt_sets, model.test_cfg.get('chunked_size', -1))
    passes = [(inference_output(model, features, offered), offered) for offered in parts]
    with full_precision(features.feat.device):
        if model.rescoring is not None and all(prompts.visual for prompts in prompt_sets):
            # Compare the boxes of all passes with the whole vocabulary; embeddings of names are too dissimilar to them.
            found = rescored_detections(model, features, samples, prompt_sets, passes, model.rescoring, rescale)
        else:
            # Merge the detections of all passes.
            single = [model.bbox_head.predict(*one, samples, rescale) for one in passes]
            limit = model.test_cfg.get('max_per_img')
            found = [best_of_passes(instances, limit) for instances in zip(*single, strict=True)]
    # Remove duplicates if that is configured.
    for sample, instances, whole in zip(samples, found, prompt_sets, strict=True):
        sample.pred_instances = remove_duplicates(instances, model.duplicate_removal)
        sample.pred_instances.label_names = [whole.names[i] for i in sample.pred_instances.labels.tolist()]
    return samples, passes


def inference_output(model: 'DINOR1', features: ImageFeatures, prompt_sets: list[PromptSet]) -> DetectorOutput:
    """Output of the decoder for one prompt set per image; hidden states and prompts are at least in float32.

    Args:
        model: The detector.
        features: Features of the batch.
        prompt_sets: The prompts of each image.
    """
    with model.inference_precision():
        output = model.transform(features, PromptBatch.stack(prompt_sets))
    prompts = output.prompts._replace(embeddings=at_least_float32(output.prompts.embeddings))
    return output._replace(hidden_states=at_least_float32(output.hidden_states), prompts=prompts)
