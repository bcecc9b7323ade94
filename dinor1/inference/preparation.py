"""From paths and arrays to batches of the network input, by the test pipeline of a config."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate

from dinor1.datasets.resized_image import two_step_pipeline
from dinor1.registry import TRANSFORMS
from dinor1.utils.errors import InputError
from dinor1.utils.image_file import can_decode, check_depth, read_image


def array_pipeline(cfg: Config, name: str) -> Compose:
    """The test pipeline of a config, for paths and arrays, without annotations.

    Args:
        cfg: The config.
        name: Name of the config, for error messages.

    Raises:
        InputError: the config has no such pipeline.
    """
    # Find the pipeline, inside wrappers of data sets.
    dataset = cfg.get('test_dataloader', {}).get('dataset', {})
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    steps = [dict(step) for step in dataset.get('pipeline', [])]
    # Replace the loading of a file, so that arrays are accepted too, and drop the annotations.
    if steps and steps[0]['type'].endswith('LoadResizedImage'):
        steps[:1] = two_step_pipeline(steps[0])
    if not steps or not steps[0]['type'].endswith('LoadImageFromFile'):
        raise InputError(
            f'{name}: test_dataloader.dataset.pipeline must begin with LoadImageFromFile or LoadResizedImage; '
            'add one of them, since this pipeline prepares the images'
        )
    steps[0]['type'] = 'InferencerLoader'
    return Compose([TRANSFORMS.build(step) for step in steps if not step['type'].endswith('LoadAnnotations')])


class ImagePreparation:
    """Test pipeline and data preprocessor of a detector.

    Args:
        pipeline: Transforms from :func:`array_pipeline`; the first one loads the image.
        preprocess: The detector's data preprocessor.
    """

    def __init__(self, pipeline: Compose, preprocess: Callable[[Any, bool], dict[str, Any]]) -> None:
        self._pipeline, self._preprocess = pipeline, preprocess

    def load(self, image: str | np.ndarray) -> np.ndarray:
        """The pixels (H, W, 3) of an image, as the test pipeline loads it.

        Raises:
            InputError: the file cannot be read.
        """
        pixels: np.ndarray = _transformed(image, self._pipeline.transforms[0])['img']
        return pixels

    def batches(
        self, images: Sequence[str | np.ndarray], batch_size: int
    ) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Preprocessed batches of images of one size, each with the indices of its images in the list.

        At most ``batch_size`` images are in memory. Images are not padded: convolutions would mix padding into the
        image, and the detections on an image would depend on the other images of its batch.

        Args:
            images: Paths, or BGR arrays (H, W, 3) of uint8.
            batch_size: Maximum number of images per batch.

        Raises:
            InputError: a file cannot be read.
        """
        for start in range(0, len(images), batch_size):
            # Prepare some images, and group them by size.
            prepared = [_transformed(image, self._pipeline) for image in images[start : start + batch_size]]
            by_size = defaultdict(list)
            for i, item in enumerate(prepared, start):
                by_size[item['inputs'].shape].append(i)
            # Make a batch of each size.
            for indices in by_size.values():
                data = pseudo_collate([prepared[i - start] for i in indices])
                yield indices, self._preprocess(data, False)


def _transformed(image: str | np.ndarray, transform: Callable[[Any], Any]) -> dict[str, Any]:
    """Run the test pipeline, or one of its transforms, on one image.

    Raises:
        InputError: the file cannot be read, or has floating-point pixels.
    """
    if isinstance(image, str):
        check_depth(image)
    try:
        return transform(image)
    except Exception:
        # Errors that do not come from the file keep their message.
        if not isinstance(image, str) or can_decode(image):
            raise
    # The pipeline loads files by OpenCV; give it the content of files that only Pillow reads.
    data = transform(read_image(image))
    if 'data_samples' in data:
        data['data_samples'].set_metainfo(dict(img_path=image))
    return data
