"""Test-time augmentation: detections on an image and on its mirror image, merged."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from torch import nn

from dinor1.utils.errors import InputError

_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
_FLIPS = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]


def use_test_time_augmentation(cfg: Config, name: str) -> None:
    """Change a config so that its test runs on several views of each image.

    As in MMDetection, the views come from ``tta_pipeline``, and ``tta_model.tta_cfg`` says how detections are merged.
    Without them, the views are the image and its mirror image, and the merge is a non-maximum suppression per class at
    an IoU of 0.5.

    Args:
        cfg: The config, changed in place.
        name: Name of the config, for messages.

    Raises:
        InputError: the test loop takes no prompts, or the test pipeline cannot be augmented.
    """
    if cfg.test_cfg.get('type') != 'PromptedTestLoop':
        raise InputError(f'--tta: test_cfg of {name} is not a PromptedTestLoop; leave the option out')
    # Find the pipeline inside wrappers such as RepeatDataset, and let it make the views.
    dataset = cfg.test_dataloader.dataset
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.get('tta_pipeline') or _flip_pipeline(dataset.get('pipeline') or [], name)
    # Set how the detections on the views are merged.
    default = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=cfg.model.get('test_cfg', {})['max_per_img'])
    cfg.test_cfg.merge_views = dict(cfg.get('tta_model', {}).get('tta_cfg', default))


def _flip_pipeline(pipeline: list, name: str) -> list[dict[str, Any]]:
    steps = [copy.deepcopy(dict(step)) for step in pipeline]
    if len(steps) < 2 or not steps[-1]['type'].endswith('PackDetInputs'):
        raise InputError(f'--tta: the test pipeline of {name} must end with PackDetInputs; give a tta_pipeline')
    # Flip before the ground truth is loaded: it stays in pixels of the original image, and must not be flipped.
    at = next((i for i, step in enumerate(steps) if step['type'].endswith('LoadAnnotations')), len(steps) - 1)
    steps[-1]['meta_keys'] = tuple(dict.fromkeys((*steps[-1].get('meta_keys', ()), *_META_KEYS)))
    views = [[step] for step in steps[1:at]] + [_FLIPS] + [[step] for step in steps[at:]]
    return [steps[0], dict(type='TestTimeAug', transforms=views)]


def predict_views(
    model: nn.Module,
    predict: Callable[[dict], tuple[list[DetDataSample], Any]],
    data_batch: dict,
    merge: Mapping[str, Any],
) -> tuple[list[DetDataSample], Any]:
    """Detect on all views of a batch of images, and merge the detections.

    Args:
        model: The detector.
        predict: Function that detects on a batch. It returns the samples and one more value. Boxes are in pixels of
            the original image, and those of a flipped view are flipped.
        data_batch: ``inputs`` and ``data_samples``, each a list over views of lists over images.
        merge: ``nms`` and ``max_per_img``, see MMDetection's ``DetTTAModel``.

    Returns:
        The merged detections per image, and the second value that ``predict`` returned for the first view.
    """
    # Detect on each view.
    count = len(data_batch['inputs'])
    views = [{key: value[i] for key, value in data_batch.items()} for i in range(count)]
    results = [predict(view) for view in views]
    # Merge the views of each image.
    merger = DetTTAModel(tta_cfg=ConfigDict(merge), module=model)
    per_image = zip(*(samples for samples, _ in results), strict=True)
    return merger.merge_preds([list(samples) for samples in per_image]), results[0][1]
