"""A test loop that gives the detector the ground-truth boxes and tests only the classification."""

import torch
from mmdet.structures import DetDataSample
from mmengine.runner import Runner
from mmengine.runner.amp import autocast
from mmengine.structures import InstanceData

from dinor1.engine.loops import PromptedTestLoop, prepare_prompts, tell_metrics
from dinor1.evaluation.prompt_protocols import EvaluationPrompts
from dinor1.evaluation.recognition import similarity_scores
from dinor1.registry import LOOPS
from dinor1.utils.distributed import unwrapped


@LOOPS.register_module()
class RecognitionTestLoop(PromptedTestLoop):
    """Encodes the ground-truth boxes in the way prompts are encoded, and compares them with the prompts.

    Every box is reported once for each class that is offered, with a score of ``(1 + cosine) / 2``. With
    :class:`~dinor1.evaluation.recognition.RecognitionMetric` this gives the accuracy, and with a metric of AP the AP
    of a detector whose boxes are perfect. Arguments are those of :class:`~dinor1.engine.PromptedTestLoop`;
    ``query_recorder`` and ``merge_views`` have no effect.
    """

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Recognise the boxes of one batch."""
        # Compute the prompts before the first batch.
        if self.prompts is None:
            self.prompts = prepare_prompts(self.runner, self._protocol, self.dataloader.dataset)
            tell_metrics(self.evaluator, self.prompts)
        # Recognise the boxes, and pass them to the metrics.
        self.runner.call_hook('before_test_iter', batch_idx=idx, data_batch=data_batch)
        with autocast(enabled=self.fp16):
            samples = recognize_batch(self.runner, data_batch, self.prompts)
        self.evaluator.process(data_samples=samples, data_batch=data_batch)
        self.runner.call_hook('after_test_iter', batch_idx=idx, data_batch=data_batch, outputs=samples)


def recognize_batch(runner: Runner, data_batch: dict, prompts: EvaluationPrompts) -> list[DetDataSample]:
    """Scores of the ground-truth boxes of one batch for all offered classes, as detections."""
    model = unwrapped(runner.model)
    data = model.data_preprocessor(data_batch, False)
    inputs, samples = data['inputs'], data['data_samples']
    # Encode the images, and the prompts for each image.
    features = model.encode_image(inputs, samples)
    prompt_sets = model.prompt_sets(features, samples, prompts.of(samples))
    # Scale ground truth to the resized image: test pipelines load annotations after resizing.
    truth = [sample.gt_instances.bboxes.to(inputs.device) for sample in samples]
    scales = [boxes.new_tensor(s.scale_factor).repeat(2) for boxes, s in zip(truth, samples, strict=True)]
    scaled = [boxes * scale for boxes, scale in zip(truth, scales, strict=True)]
    # Encode the ground-truth boxes like prompts.
    counts = [len(boxes) for boxes in truth]
    if any(counts):
        encoded = model.encode_boxes(features, scaled, [sample.img_shape for sample in samples]).split(counts)
    else:
        encoded = [features.feat.new_zeros(0, model.embed_dims)] * len(samples)
    # Report every box once for each offered class.
    for sample, boxes, embeddings, offered in zip(samples, truth, encoded, prompt_sets, strict=True):
        labels = offered.reported
        scores = similarity_scores(embeddings, offered.class_embeddings()[labels])
        sample.pred_instances = InstanceData(
            bboxes=boxes.repeat_interleave(len(labels), 0),
            scores=scores.flatten(),
            labels=labels.repeat(len(boxes)),
        )
    return samples
