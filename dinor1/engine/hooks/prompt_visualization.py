"""Draw a contact sheet of the prompts and detections of an evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.structures import DetDataSample
from mmengine.dataset import BaseDataset
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from dinor1.datasets.image_backend import image_backend_args
from dinor1.evaluation.prompt_protocols import EvaluationPrompts
from dinor1.evaluation.visual_generic import Exemplar
from dinor1.registry import HOOKS
from dinor1.utils.image_file import read_image
from dinor1.utils.io import write_image
from dinor1.visualization import class_colors, contact_sheet, draw_boxes, prompt_strip
from dinor1.visualization.samples import crop, stack

_TRUTH = (255, 255, 255)


@HOOKS.register_module()
class PromptVisualizationHook(Hook):
    """Writes ``vis/val_epoch_<n>.png`` or ``vis/test.png`` to the work directory.

    The upper strip shows one exemplar per class. Below are the first images of the set, with detections in the colour
    of their class, and ground truth as thin white boxes. Models that are not detectors, such as classifiers, get no
    sheet.

    Args:
        num_images: Maximum number of images on the sheet.
        score_thr: Detections below this score are not drawn.
        show_dir: Folder for all test images with their detections, named like the images; None: they are not written.
            If images share a name, the image id is appended to the names of all but the first.
    """

    priority = 'LOW'

    def __init__(self, num_images: int = 12, score_thr: float = 0.3, show_dir: str | None = None) -> None:
        self.num_images, self.score_thr, self.show_dir = num_images, score_thr, show_dir
        self._images: list[np.ndarray] = []
        self._written: dict[str, str] = {}

    def before_val_epoch(self, runner: Runner) -> None:
        """Start a new sheet."""
        self._images = []

    before_test_epoch = before_val_epoch

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: list | None = None
    ) -> None:
        """Draw the first images of the set."""
        self._collect(runner.val_dataloader.dataset, outputs)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: list | None = None
    ) -> None:
        """Draw the first images of the set, and write all images if ``show_dir`` is set."""
        self._collect(runner.test_dataloader.dataset, outputs)
        if self.show_dir is not None and outputs and isinstance(outputs[0], DetDataSample):
            for sample in outputs:
                self._write_image(runner.test_dataloader.dataset, sample)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Write the sheet of this epoch."""
        self._write(runner, runner.val_loop, f'val_epoch_{runner.epoch}.png')

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Write the sheet of the test."""
        self._write(runner, runner.test_loop, 'test.png')

    def _collect(self, dataset: BaseDataset, outputs: list | None) -> None:
        if not is_main_process() or outputs is None or not isinstance(outputs[0], DetDataSample):
            return
        for sample in outputs[: self.num_images - len(self._images)]:
            image = read_image(sample.img_path, image_backend_args(dataset))
            self._images.append(self._draw(image, dataset.metainfo['classes'], sample, 320 / max(image.shape[:2])))

    def _draw(self, image: np.ndarray, names: Sequence[str], sample: DetDataSample, scale: float) -> np.ndarray:
        """Return an image, scaled by ``scale``, with ground truth and detections."""
        # Select the detections.
        colors, found = class_colors(len(names)), sample.pred_instances.cpu().numpy()
        found = found[found.scores >= self.score_thr]
        captions = [f'{names[i]} {score:.2f}' for i, score in zip(found.labels, found.scores, strict=True)]
        # Draw the ground truth, in pixels of the original image (test pipelines load annotations after resizing).
        truth = sample.gt_instances.bboxes.cpu().numpy()
        drawn = draw_boxes(image, truth, [''] * len(truth), [_TRUTH] * len(truth), scale, thickness=1)
        return draw_boxes(drawn, found.bboxes * scale, captions, [colors[i] for i in found.labels], 1.0)

    def _write_image(self, dataset: BaseDataset, sample: DetDataSample) -> None:
        """Write a test image with its detections, at its original size."""
        stem = Path(sample.img_path).stem
        if self._written.setdefault(stem, sample.img_path) != sample.img_path:
            stem = f'{stem}_{sample.img_id}'
        image = read_image(sample.img_path, image_backend_args(dataset))
        drawn = self._draw(image, dataset.metainfo['classes'], sample, 1.0)
        write_image(drawn, Path(str(self.show_dir)) / f'{stem}.png')

    def _write(self, runner: Runner, loop: BaseLoop, filename: str) -> None:
        if not self._images:
            return
        sheet = contact_sheet(self._images)
        # Add the prompts; MMEngine's own loops have none.
        prompts = getattr(loop, 'prompts', None)
        if prompts is not None and prompts.exemplars and prompts.shared is not None:
            sheet = stack(_strip(prompts), sheet)
        path = Path(runner.work_dir) / 'vis' / filename
        write_image(sheet, path)
        self._images = []
        runner.logger.info(f'Prompts and detections: {path}')


def _strip(prompts: EvaluationPrompts) -> np.ndarray:
    """Return a strip with the first exemplar of each class, BGR (H, W, 3) of uint8."""
    dataset: Any = prompts.dataset
    names, known = prompts.names, dataset.metainfo['classes']
    # Find the first exemplar of each class.
    first: dict[str, Exemplar] = {}
    for exemplar in prompts.exemplars:
        first.setdefault(known[exemplar.label], exemplar)
    # Crop the exemplars from their images.
    crops, shown = [], [name for name in names if name in first]
    for name in shown:
        path = dataset.get_data_info(first[name].index)['img_path']
        image = read_image(path, image_backend_args(dataset))
        crops.append(crop(image, first[name].bbox))
    colors = class_colors(len(names))
    return prompt_strip(crops, shown, [colors[names.index(name)] for name in shown])
