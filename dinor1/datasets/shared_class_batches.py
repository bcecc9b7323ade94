"""Batches of images that share classes, so that exemplars of other images can be prompts."""

from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

from dinor1.datasets.samplers import ResumableBatchSampler
from dinor1.registry import DATA_SAMPLERS
from dinor1.utils.errors import InputError


@DATA_SAMPLERS.register_module()
class SharedClassBatchSampler(ResumableBatchSampler):
    """Batches in which most classes are on at least two images.

    The prompts of a training batch are exemplars of its own images. With many classes, a random batch seldom shows a
    class on two images. Then the exemplar of a class lies on the same image as the objects to find, the prompts of
    all other images are negatives, and a detector can distinguish them by the colours and the style of an image instead
    of by the class. It learns little about exemplars on other images.

    Each batch begins with the next image of the sampler's order. Images are added one by one. Among the next
    ``lookahead`` images, it is the one that shows most of the classes which exactly one image of the batch shows; the
    first of them, if there are several. If no image shows such a class, it is the next image. In every epoch, each
    image is in exactly one batch, and batches depend on the sampler's order only.

    Args:
        sampler: Source of indices with ``dataset``, whose ``get_data_info(i)['instances']`` have ``bbox_label``; such
            as MMEngine's ``DefaultSampler`` on a COCO data set. A label must mean the same class in every image.
        batch_size: Images per batch.
        drop_last: Leave out the last batch if it is not full.
        lookahead: Number of images among which an image is chosen, at least 1. With 1, batches are those of
            ``BatchSampler``.

    Raises:
        InputError: ``lookahead`` is not positive.
    """

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = False, lookahead: int = 512) -> None:
        if lookahead < 1:
            raise InputError(f'SharedClassBatchSampler: lookahead must be at least 1, got {lookahead}')
        super().__init__(sampler, batch_size, drop_last)
        self.lookahead = lookahead

    def batches(self) -> Iterator[list[int]]:
        """All batches of the epoch."""
        window = _Window(self.sampler.dataset, iter(self.sampler), self.lookahead)
        while batch := self._next_batch(window):
            if len(batch) < self.batch_size and self.drop_last:
                return
            yield batch

    def _next_batch(self, window: '_Window') -> list[int]:
        """Take the images of a batch from the window; empty if there is none left."""
        batch: list[int] = []
        counts: Counter[int] = Counter()
        while len(batch) < self.batch_size:
            chosen = window.take([label for label, count in counts.items() if count == 1])
            if chosen is None:
                break
            index, labels = chosen
            batch.append(index)
            counts.update(labels)
        return batch


class _Window:
    """The next images of an order, which can be taken by their classes.

    Args:
        dataset: The data set.
        order: Indices of its images.
        size: Number of images in the window, at least 1.
    """

    def __init__(self, dataset: Any, order: Iterator[int], size: int) -> None:
        self._dataset, self._order = dataset, order
        # Images are numbered by their positions in the order. Taken ones leave `_images` at once, and `_queue` when
        # they arrive at its front.
        self._images: dict[int, tuple[int, frozenset[int]]] = {}
        self._of_class: dict[int, dict[int, None]] = {}
        self._queue: deque[int] = deque()
        self._count = 0
        for _ in range(size):
            self._read()

    def _read(self) -> None:
        """Add the next image of the order, if there is one."""
        index = next(self._order, None)
        if index is None:
            return
        instances = self._dataset.get_data_info(index)['instances']
        labels = frozenset(one['bbox_label'] for one in instances if not one.get('ignore_flag'))
        self._images[self._count] = index, labels
        self._queue.append(self._count)
        for label in labels:
            self._of_class.setdefault(label, {})[self._count] = None
        self._count += 1

    def take(self, wanted: list[int]) -> tuple[int, frozenset[int]] | None:
        """Remove the image that shows most of the wanted classes; the first image if none shows any.

        Args:
            wanted: Class labels.

        Returns:
            The index of the image and its classes; None if no image is left.
        """
        # Find the image.
        shown = Counter(position for label in wanted for position in self._of_class.get(label, ()))
        if shown:
            position = min(shown, key=lambda one: (-shown[one], one))
        else:
            while self._queue and self._queue[0] not in self._images:
                self._queue.popleft()
            if not self._queue:
                return None
            position = self._queue[0]
        # Remove it, and let the next image of the order take its place.
        index, labels = self._images.pop(position)
        for label in labels:
            del self._of_class[label][position]
        self._read()
        return index, labels
