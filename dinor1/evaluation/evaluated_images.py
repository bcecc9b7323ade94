"""The images of an evaluation: every image occurs once, and images of the annotation file may be missing."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.logging import print_log

from dinor1.evaluation.detections import Detections
from dinor1.utils.errors import InputError

# Names of images in an error.
_SHOWN = 3


@dataclass
class EvaluatedImage:
    """An image with its detections.

    Attributes:
        image_id: Id in the annotation file.
        path: File of the image; empty if the data set does not state it.
        detections: Detections on the image.
    """

    image_id: int
    path: str
    detections: Detections

    @classmethod
    def of_sample(cls, sample: dict[str, Any], detections: Detections) -> 'EvaluatedImage':
        """The image of a data sample in the form of a dict."""
        return cls(sample['img_id'], str(sample.get('img_path') or ''), detections)


class SeenImages:
    """Ids of the images that one process has evaluated; a second time is an error."""

    def __init__(self, ann_file: str) -> None:
        self._ann_file = ann_file
        self._paths: dict[int, str] = {}

    def add(self, image: EvaluatedImage) -> None:
        """Record an image.

        Raises:
            InputError: an image with its id was recorded before.
        """
        if image.image_id in self._paths:
            raise InputError(_repeated({image.image_id: [self._paths[image.image_id], image.path]}, self._ann_file))
        self._paths[image.image_id] = image.path

    def clear(self) -> None:
        """Forget all images, when the next evaluation begins."""
        self._paths.clear()


def check_unique(images: Iterable[tuple[int, str]], ann_file: str) -> None:
    """Raise an error for images that occur more than once.

    Args:
        images: Ids and paths, without the repetitions with which a distributed sampler fills its last batch.
        ann_file: The annotation file, for messages.

    Raises:
        InputError: an id occurs more than once.
    """
    paths: dict[int, list[str]] = {}
    for image_id, path in images:
        paths.setdefault(image_id, []).append(path)
    repeated = {image_id: found for image_id, found in paths.items() if len(found) > 1}
    if repeated:
        raise InputError(_repeated(repeated, ann_file))


def _repeated(repeated: dict[int, list[str]], ann_file: str) -> str:
    """Error message for images that occur more than once; two files with one id belong to two data sets."""
    # List the first images with their files.
    shown = []
    for image_id, paths in list(repeated.items())[:_SHOWN]:
        files = [path for path in dict.fromkeys(paths) if path]
        shown.append(f'{image_id} ({" and ".join(files)})' if files else str(image_id))
    more = f' and {len(repeated) - _SHOWN} more' if len(repeated) > _SHOWN else ''
    # Recognise the cause.
    if any(len(set(paths)) > 1 for paths in repeated.values()):
        advice = 'two data sets use the same ids: evaluate them one after the other, or give them as one list ann_file'
    else:
        advice = 'an image counts once: leave out RepeatDataset, or correct the sampler'
    return f'{ann_file}: evaluated more than once: image {", ".join(shown)}{more}; {advice}'


def subset(content: dict, seen: Sequence[int]) -> dict:
    """The part of an annotation file that is about the images ``seen``; the content itself if they are all."""
    known = frozenset(seen)
    if len(known) == len(content['images']):
        return content
    return content | dict(
        images=[image for image in content['images'] if image['id'] in known],
        annotations=[a for a in content['annotations'] if a.get('image_id') in known],
    )


def count_images(num_seen: int, num_known: int, ann_file: str) -> dict[str, float]:
    """Entries of a result with the numbers of evaluated and of all images; empty if all images were evaluated.

    The log has a warning with the same numbers.
    """
    if num_seen == num_known:
        return {}
    print_log(
        f'{num_seen:,} of the {num_known:,} images of {ann_file} were evaluated; the scores are those of these images',
        logger='current',
        level=logging.WARNING,
    )
    return dict(images_evaluated=float(num_seen), images_in_file=float(num_known))
