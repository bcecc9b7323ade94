"""Evaluate a detector on a split of the icon world with all prompt protocols.

Images and the instances of a support set are encoded once. The prompts of every number of exemplars and of every draw
are means of the same embeddings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from dinor1.datasets import CocoPromptDataset
from dinor1.evaluation import VisualInteractive, draw_exemplars, embed_exemplars
from dinor1.evaluation.class_agnostic import class_agnostic_recall
from dinor1.evaluation.coco_metric import read_coco
from dinor1.evaluation.detections import Detections
from dinor1.evaluation.lvis_eval import evaluate_lvis
from dinor1.evaluation.lvis_ground_truth import LVISGroundTruth
from dinor1.evaluation.visual_generic import average_exemplars
from dinor1.evaluation.visual_interactive_metric import visual_interactive_scores
from dinor1.models import DINOR1
from dinor1.structures import ImageFeatures, Prompts, PromptSet
from dinor1.utils.errors import InputError

# Split -> support sets of its concepts. Keys state how their drawings are related to those of the targets.
SUPPORT = {
    'val_base': {'known': 'support_base'},
    'test_base': {'known': 'support_base'},
    'val_novel': {'cross': 'support_val_novel', 'same': 'support_val_novel_same'},
    'test_novel': {'cross': 'support_test_novel', 'same': 'support_test_novel_same'},
    'test_style': {'cross': 'support_base', 'same': 'support_test_style_same'},
}
# Number of exemplars per class -> number of draws, over which results are averaged.
DRAWS = {1: 8, 4: 3, 16: 1}
REPORTED = ('AP', 'AP50', 'APr', 'APc', 'APf')
BATCH_SIZE = 8


class EncodedImages:
    """Images of a split, encoded once.

    Args:
        model: The detector, in evaluation mode.
        dataset: The images.
    """

    def __init__(self, model: DINOR1, dataset: CocoPromptDataset) -> None:
        self.model, self.dataset = model, dataset
        self._batches = [
            self._encode(range(len(dataset))[i : i + BATCH_SIZE]) for i in range(0, len(dataset), BATCH_SIZE)
        ]

    @torch.no_grad()
    def _encode(self, indices: Sequence[int]) -> tuple[ImageFeatures, list[DetDataSample]]:
        data = self.model.data_preprocessor(pseudo_collate([self.dataset[i] for i in indices]), False)
        return self.model.encode_image(data['inputs'], data['data_samples']), data['data_samples']

    @torch.no_grad()
    def detect(self, prompts_of: Callable[[list[DetDataSample]], Prompts]) -> Detections:
        """Detections on all images; ``image`` is an image id.

        Args:
            prompts_of: The prompts of a batch of samples.
        """
        parts = []
        for features, samples in self._batches:
            for sample in self.model.detect(features, samples, prompts_of(samples))[0]:
                found = sample.pred_instances.cpu()
                arrays = (found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy())
                parts.append(Detections.of_image(sample.img_id, *arrays))
        return Detections.concatenate(parts)


class SupportSet:
    """Exemplars on other images, each of which is embedded once.

    Args:
        model: The detector, in evaluation mode.
        dataset: The images of the exemplars.
    """

    def __init__(self, model: DINOR1, dataset: CocoPromptDataset) -> None:
        self.model, self.dataset = model, dataset
        # A prompt encoder that aggregates boxes gives other embeddings for every draw.
        self._rows: dict | None = None
        if not model.prompt_encoder.aggregates:
            instances = draw_exemplars(dataset, num_exemplars=10**9)
            rows, _ = embed_exemplars(model, dataset, instances)
            self._rows = dict(zip(instances, rows, strict=True))

    def prompts(self, names: Sequence[str], num_exemplars: int, seed: int) -> PromptSet:
        """Mean embedding of a few drawn instances per class; classes without one are not offered.

        Args:
            names: Class names of the evaluated set.
            num_exemplars: Maximum number of instances per class.
            seed: Seed of the draw.
        """
        drawn = draw_exemplars(self.dataset, num_exemplars, seed)
        if self._rows is None:
            rows, labels = embed_exemplars(self.model, self.dataset, drawn)
        else:
            rows = torch.stack([self._rows[exemplar] for exemplar in drawn])
            labels = torch.tensor([exemplar.label for exemplar in drawn])
        return average_exemplars(self.model, self.dataset, drawn, rows, labels).prompt_set(names)


def measure_icons(
    root: str | Path,
    model: DINOR1,
    cfg: Config,
    split: str,
    draws: Mapping[int, int] = DRAWS,
    interactive_draws: int = 3,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Score a detector on one split of the icon world.

    Args:
        root: Folder of the icon world.
        model: The detector, in evaluation mode.
        cfg: Its config, for the preparation of images.
        split: A key of :data:`SUPPORT`.
        draws: Number of exemplars per class -> number of draws, over which results are averaged.
        interactive_draws: Number of draws of the prompts on the images themselves.
        progress: Called with a line after each protocol.

    Returns:
        Metrics in [0, 1], -1 where undefined: ``cross16/AP`` and so on, with the support set (``known``, ``cross`` or
        ``same``) and the number of exemplars, for the metrics AP, AP50, APr, APc and APf; ``text/AP`` and so on, if the
        model has a language model; the metrics of
        :func:`~dinor1.evaluation.visual_interactive_metric.visual_interactive_scores` as ``interactive/*``;
        ``recall``, the class-agnostic recall of the prompts with most exemplars.

    Raises:
        InputError: the split is unknown, or its files are missing.
    """
    if split not in SUPPORT:
        raise InputError(f'{split}: not a split of the icon world; give one of {", ".join(SUPPORT)}')
    if not draws or min(draws) < 1 or min(draws.values()) < 1:
        raise InputError(f'numbers of exemplars and of draws must be at least 1, got {dict(draws)}')
    # Encode the images.
    path = Path(root) / f'annotations/{split}.json'
    images = EncodedImages(model, read_split(root, split, cfg.test_dataloader.dataset.pipeline))
    truth, names = LVISGroundTruth.read(path), tuple(images.dataset.metainfo['classes'])
    progress(f'{split}: {len(images.dataset)} images of {len(names)} concepts')
    scores: dict[str, float] = {}
    # Prompt with exemplars on other images.
    for kind, support_split in SUPPORT[split].items():
        support = SupportSet(model, read_split(root, support_split, cfg.prompt_dataset.pipeline))
        for count, num_draws in sorted(draws.items()):
            results = []
            for seed in range(num_draws):
                prompts = support.prompts(names, count, seed)
                found = images.detect(lambda samples, prompts=prompts: prompts)
                results.append(average_precision(truth, names, found))
            scores |= {f'{kind}{count}/{key}': mean_score([result[key] for result in results]) for key in results[0]}
            progress(f'{split}: {kind}, {count} exemplars, AP {scores[f"{kind}{count}/AP"]:.3f}')
        if 'recall' not in scores:
            scores['recall'] = class_agnostic_recall(read_coco([str(path)]), found)
    # Prompt with names.
    if model.language_model is not None:
        prompts = model.text_prompt_set(names)
        result = average_precision(truth, names, images.detect(lambda samples: prompts))
        scores |= {f'text/{key}': value for key, value in result.items()}
        progress(f'{split}: text, AP {scores["text/AP"]:.3f}')
    # Prompt with boxes on the images themselves.
    drawn = []
    for seed in range(interactive_draws):
        own = VisualInteractive(seed).prepare(model, images.dataset)
        drawn.append((images.detect(own.of), own.boxes))
    if drawn:
        ids = np.array(images.dataset.cat_ids)
        result = visual_interactive_scores(read_coco([str(path)]), drawn, ids)
        scores |= {f'interactive/{key}': value for key, value in result.items()}
        progress(f'{split}: interactive, AP50 without exemplar {result["without_exemplar_AP50"]:.3f}')
    return scores


def read_split(root: str | Path, split: str, pipeline: Sequence[dict]) -> CocoPromptDataset:
    """The images of a split.

    Raises:
        InputError: its annotations are missing.
    """
    if not (Path(root) / f'annotations/{split}.json').is_file():
        raise InputError(f'{root}: no annotations/{split}.json; make the icon world with dinor1 make-data icons')
    return CocoPromptDataset(
        data_root=str(root),
        ann_file=f'annotations/{split}.json',
        data_prefix=dict(img=f'images/{split}/'),
        pipeline=list(pipeline),
        test_mode=True,
    )


def average_precision(truth: LVISGroundTruth, names: Sequence[str], found: Detections) -> dict[str, float]:
    """AP, AP50, APr, APc and APf of the 300 best detections of each image, as defined by LVIS."""
    truth = truth.select(names)
    found = found.select(found.rank < 300)
    indexed = replace(found, image=np.searchsorted(truth.image_ids, found.image))
    summary = evaluate_lvis(truth, indexed).summary()
    return {name: summary[name] for name in REPORTED}


def mean_score(values: Sequence[float]) -> float:
    """Mean of the values; -1, which means undefined, if one of them is -1."""
    return -1.0 if min(values) < 0 else float(np.mean(values))
