"""Detection in three steps: load a model, set prompts, predict."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.structures import InstanceData
from torch import Tensor

import dinor1
from dinor1.datasets.resized_image import two_step_pipeline
from dinor1.models import DINOR1
from dinor1.models.detectors.duplicates import DuplicateRemoval, remove_duplicates
from dinor1.registry import TRANSFORMS
from dinor1.structures import PromptBank, PromptSet
from dinor1.utils.checkpoint import load_model
from dinor1.utils.class_names import check_class_name, class_key, distinct_names
from dinor1.utils.config import load_config
from dinor1.utils.devices import as_device
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint
from dinor1.utils.image_file import can_decode, check_depth, read_image
from dinor1.utils.released_weights import DEFAULT

from .acceleration import compile_detector, set_inference_dtype
from .adaptation import Adaptation, AnnotatedImage, adapt_prompts
from .arguments import (
    as_list,
    check_batch_size,
    class_names,
    class_thresholds,
    prompt_arguments,
    visual_prompt,
    with_negatives,
)
from .image_input import ImageLike, as_path_or_array, list_images
from .operating_point import ExemplarSimilarity, OperatingPoint, exemplar_similarity, operating_points
from .output_formats import Detections, as_record, to_record
from .prompt_regions import as_regions, region_boxes
from .released import released_detector
from .tiling import detect_views, image_views
from .tuned_head import TunedHead, copy_head, restored_head, set_head
from .visual_prompt import VisualPrompt, as_boxes, as_names, clip_boxes


class DINOR1Inferencer:
    """A trained :class:`~dinor1.models.DINOR1` and its prompts.

    Example, with the released detector for photographs::

        inferencer = DINOR1Inferencer()  # or DINOR1Inferencer('config.py', 'checkpoint.pth')
        samples = inferencer(['a.jpg', 'b.jpg'], prompts=[('cats.jpg', [[10, 20, 90, 80]], 'cat')])

    Or in two steps::

        inferencer.set_prompts(visual=[('cats.jpg', [[10, 20, 90, 80]], 'cat')])
        samples = inferencer.predict(['a.jpg', 'b.jpg'])

    The model stays in evaluation mode, and equal inputs give equal outputs. Images that differ in size after resizing
    are never put into the same batch, so that padding does not affect the results.

    Args:
        config: Config file, or a loaded config. Its test pipeline prepares the images. Default: that of the released
            weights.
        checkpoint: Checkpoint of exactly this architecture, or the name of released weights, such as ``'lite'``, if no
            config is given. Default: the released weights ``lite``.
        device: Device, such as ``'cpu'`` or ``'cuda:0'``. Default: the GPU if there is one.
        dtype: ``'float32'`` or ``'bfloat16'``; boxes and scores are computed in float32 in either case.
        compile: Whether to compile the model; useful for many images of few sizes, see
            :func:`~dinor1.inference.acceleration.compile_detector`.

    Attributes:
        device: Device of the model.
        prompts: What :meth:`predict` searches for; None: no prompts are set.
        head: The tuned head that the model has, see :meth:`load_head`; None: its own.

    Raises:
        InputError: a file is missing or damaged, or config, checkpoint and device do not fit together.
    """

    def __init__(
        self,
        config: str | PathLike | Config | None = None,
        checkpoint: str | PathLike | None = None,
        device: str | torch.device | None = None,
        dtype: str = 'float32',
        compile: bool = False,
    ) -> None:
        # Load config, pipeline and model.
        dinor1.register_all()
        unused: tuple[str, ...] = ()
        if config is None:
            cfg, checkpoint, unused = released_detector(str(checkpoint or DEFAULT))
        elif checkpoint is None:
            raise InputError('a config without a checkpoint; give both, or neither for the released detector')
        else:
            cfg = config if isinstance(config, Config) else load_config(str(config))
        name = cfg.filename or 'the config'
        if 'model' not in cfg:
            raise InputError(f'{name}: has no model; give the config that the checkpoint was trained with')
        self._transform = _array_pipeline(cfg, name)
        self.device = as_device(device)
        self.model: Any = load_model(cfg, str(checkpoint), self.device, unused)
        if not isinstance(self.model, DINOR1):
            raise InputError(f'{name}: a {type(self.model).__name__} takes no prompts; give the config of a DINOR1')
        # Set precision and compilation.
        set_inference_dtype(self.model, dtype, 'dtype')
        if compile:
            compile_detector(self.model, self.device)
        self.prompts: PromptSet | None = None
        self.head: TunedHead | None = None
        self._bank: PromptBank | None = None

    # ---------------------------------------------------------------- prompts

    @torch.no_grad()
    def set_prompts(
        self,
        visual: Sequence[VisualPrompt | tuple] = (),
        text: str | Sequence[str] = (),
        bank: str | PathLike | PromptBank | None = None,
        negative: str | Sequence[str] = (),
    ) -> PromptSet:
        """Replace the prompts; after an error the old prompts remain.

        The embedding of a class is the mean over all its boxes on all images; exemplars in a bank count as boxes. A
        class given both by boxes and by name gets the average of both embeddings. Names that differ only in case or
        in surrounding blanks are one class; the first spelling is kept.

        Args:
            visual: Boxes on reference images; points or masks in the place of boxes are described by
                :class:`VisualPrompt`.
            text: Class names, or one text such as ``'cat . dog'``, see
                :func:`~dinor1.inference.class_names.split_text`.
            bank: A bank made by this model, or its file.
            negative: Those of the class names above that are searched for but not reported, because their objects
                could be confused with the other classes.

        Returns:
            The prompts, also stored as :attr:`prompts`. Their ``names`` are in the order bank, boxes, text.

        Raises:
            InputError: no prompts are given, a box or a name is invalid, the bank belongs to another model, or text
                is given to a model without language model.
        """
        # Collect banks: the given one, and one made from the boxes.
        names = class_names(text, 'text')
        boxes = [visual_prompt(item, i) for i, item in enumerate(as_list(visual, 'visual'))]
        hidden = [negative] if isinstance(negative, str) else as_list(negative, 'negative')
        banks = []
        if bank is not None:
            banks.append(self._own_bank(bank))
        if boxes:
            banks.append(self._embed(boxes))
        if not banks and not names:
            raise InputError('no prompts: give boxes on a reference image, class names or a prompt bank')
        # Join the banks, and average them with the text prompts.
        merged = PromptBank.merge(banks) if banks else None
        sets = [merged.prompt_set()] if merged else []
        if names:
            sets.append(self.model.text_prompt_set(names).to('cpu'))
        prompts = sets[0] if len(sets) == 1 else sets[0].mix(sets[1])
        # Mark the negative classes, and store the prompts.
        prompts = with_negatives(prompts, [check_class_name(name, 'negative') for name in hidden])
        self.prompts, self._bank = prompts.to(self.device), merged
        return self.prompts

    def reset_prompts(self) -> None:
        """Remove all prompts."""
        self.prompts = self._bank = None

    @property
    def bank(self) -> PromptBank | None:
        """The visual prompts; None: there are none."""
        return self._bank

    def save_bank(self, path: str | PathLike) -> None:
        """Write the visual prompts to a ``.safetensors`` file for ``set_prompts(bank=path)``.

        The file does not contain text prompts, and does not say which prompts are negative: pass both again with the
        bank.

        Raises:
            InputError: there are no visual prompts.
        """
        if self._bank is None:
            raise InputError(f'{path}: there are no visual prompts to save; call set_prompts with boxes first')
        self._bank.save(path)

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.model)

    def _own_bank(self, bank: str | PathLike | PromptBank) -> PromptBank:
        """Load a bank, and check that it belongs to the model.

        Raises:
            InputError: the bank belongs to another model, or cannot be read.
        """
        # Load the bank, and compare fingerprints.
        if not isinstance(bank, str | PathLike | PromptBank):
            raise InputError(f'bank: expected a prompt bank or its file, got {bank!r}')
        where = 'this prompt bank' if isinstance(bank, PromptBank) else f'{bank}: this prompt bank'
        if not isinstance(bank, PromptBank):
            bank = PromptBank.load(bank, self._fingerprint)
        if bank.fingerprint != self._fingerprint:
            raise InputError(f'{where} was made by another model; rebuild it with this checkpoint')
        # Compare the heads.
        current = None if self.head is None else self.head.digest
        if any(item.get('head') not in (None, current) for item in bank.adaptations):
            raise InputError(f'{where} was tuned together with a head; load this head first: --head, or load_head()')
        # Compare the width of the embeddings.
        width = bank.embeddings.shape[-1]
        if width != self.model.embed_dims:
            raise InputError(f'{where} has embeddings of width {width}, not {self.model.embed_dims}; rebuild it')
        return bank

    def _embed(self, visual: list[VisualPrompt], batch_size: int = 8) -> PromptBank:
        """Bank of boxes on reference images: the mean embedding of each class."""
        # Check images, boxes and names.
        images = [as_path_or_array(item.image, f'reference image {i}') for i, item in enumerate(visual)]
        wheres = [visual[i].source or _describe(image, i) for i, image in enumerate(images)]
        boxes = [as_regions(v.boxes, where, v.normalized) for v, where in zip(visual, wheres, strict=True)]
        labels = [as_names(v.names, len(b), where) for v, b, where in zip(visual, boxes, wheres, strict=True)]
        names = distinct_names(name for group in labels for name in group)
        keys = [class_key(name) for name in names]
        # Embed the boxes of each image, scaled to the network input.
        rows: list[Tensor] = [torch.empty(0)] * len(images)
        row_labels = list(rows)
        for indices, data in self._batches(images, batch_size):
            samples, scaled = data['data_samples'], []
            for i, sample in zip(indices, samples, strict=True):
                pixels = region_boxes(boxes[i], sample.ori_shape, wheres[i], visual[i].normalized)
                box = data['inputs'].new_tensor(pixels)
                scaled.append(box * box.new_tensor(sample.scale_factor).repeat(2))
            features = self.model.encode_image(data['inputs'], samples)
            indexed = [
                torch.tensor(
                    [keys.index(class_key(name)) for name in labels[i]], dtype=torch.long, device=scaled[0].device
                )
                for i in indices
            ]
            embeddings, parts = self.model.encode_exemplars(features, scaled, indexed, [s.img_shape for s in samples])
            lengths = [len(part) for part in parts]
            for i, row, part in zip(indices, embeddings.float().cpu().split(lengths), parts, strict=True):
                rows[i], row_labels[i] = row, part.cpu()
        # Average over the embeddings of each class, and count its boxes.
        means = PromptSet.from_exemplars(torch.cat(rows), torch.cat(row_labels), names).embeddings
        index = torch.tensor([keys.index(class_key(name)) for group in labels for name in group])
        return PromptBank(means, tuple(names), tuple(index.bincount().tolist()), self._fingerprint)

    # ---------------------------------------------------------------- adaptation

    def adapt(
        self,
        images: Sequence[ImageLike],
        boxes: Sequence[Any],
        names: str | Sequence[str | Sequence[str]] = 'object',
        steps: int | None = None,
        lr: float = 0.01,
        parts: str = 'embeddings',
    ) -> Adaptation:
        """Tune the embeddings of the visual prompts on a few annotated images.

        The boxes become exemplars of the current prompts, or new prompts, and AdamW tunes their embeddings with the
        detector's supervised losses; the weights of the model do not change, except a few of its head if this is
        wanted. With three images or more, each image is
        left out of a tuning in turn, and the result is kept only if the mean loss on the images left out falls. With
        fewer, a few steps are kept unchecked. The result is part of the prompts and of :meth:`save_bank`.

        Args:
            images: Images on which **all** objects of the prompts' classes have boxes: what has none counts as
                background.
            boxes: Per image (m, 4) pixel xyxy, m >= 1.
            names: One name for all boxes, or per image one name or m names.
            steps: Number of steps. Default: 30, and 10 with fewer than three images.
            lr: Learning rate.
            parts: ``'embeddings'``, or ``'head'`` to tune the norm before the classification and its biases too; this
                needs three images, and :meth:`save_head` beside :meth:`save_bank`.

        Returns:
            Whether the tuned embeddings are in use, and the losses.

        Raises:
            InputError: an image, a box or a number is invalid, the prompts contain text, or the model is not in float32
                or has no ``train_cfg``.
        """
        return adapt_prompts(self, images, boxes, names, steps, lr, parts)

    @cached_property
    def weights_digest(self) -> str:
        """Digest of all weights of the model without a tuned head."""
        with restored_head(self.model):
            if self.head is not None:
                set_head(self.model, self._own_head)
            return fingerprint(self.model, whole=True)

    @cached_property
    def _own_head(self) -> dict[str, Tensor]:
        return copy_head(self.model)

    def use_head(self, head: TunedHead | None) -> None:
        """Give the model a tuned head of its own weights, or with None its own head again."""
        own = self._own_head  # the first access copies it
        set_head(self.model, own if head is None else head.tensors)
        self.head = head

    def load_head(self, path: str | PathLike) -> None:
        """Use a head that :meth:`save_head` wrote; prompts stay set.

        Raises:
            InputError: the file is missing or damaged, or the head was tuned on other weights.
        """
        self.use_head(TunedHead.load(path, self.model, self.weights_digest))

    def save_head(self, path: str | PathLike) -> None:
        """Write the tuned head to a ``.safetensors`` file for :meth:`load_head`.

        Raises:
            InputError: there is none.
        """
        if self.head is None:
            raise InputError(f"{path}: there is no tuned head to save; call adapt with parts='head' first")
        self.head.save(path)

    @torch.no_grad()
    def encode_annotated(
        self, images: Sequence[ImageLike], boxes: Sequence[Any], names: Sequence[str | Sequence[str]]
    ) -> list[AnnotatedImage]:
        """Features of images, and prompt embeddings of their boxes, one image at a time.

        Args:
            images: See :meth:`adapt`.
            boxes: Per image (m, 4) pixel xyxy, m >= 1.
            names: Per image one name, or m names.

        Raises:
            InputError: there is no image, the lengths differ, or an image, a box or a name is invalid.
        """
        images, boxes, names = as_list(images, 'images'), as_list(boxes, 'boxes'), as_list(names, 'names')
        if not images or not len(images) == len(boxes) == len(names):
            raise InputError(
                f'expected boxes and names for each of {len(images)} images, at least one, got {len(boxes)} and '
                f'{len(names)}'
            )
        encoded = []
        for i, (item, box, name) in enumerate(zip(images, boxes, names, strict=True)):
            image = as_path_or_array(item, f'image {i}')
            where = _describe(image, i)
            pixels = as_boxes(box, where)
            ((_, data),) = self._batches([image], 1)
            (sample,) = data['data_samples']
            scaled = data['inputs'].new_tensor(clip_boxes(pixels, sample.ori_shape, where))
            scaled = scaled * scaled.new_tensor(sample.scale_factor).repeat(2)
            features = self.model.encode_image(data['inputs'], [sample])
            embeddings = self.model.encode_boxes(features, [scaled], [sample.img_shape])
            encoded.append(AnnotatedImage(features, sample, scaled, as_names(name, len(pixels), where), embeddings))
        return encoded

    @staticmethod
    def calibrate(
        checked: Sequence[tuple[Detections, Sequence[bool]]], min_checked: int = 10
    ) -> dict[str, OperatingPoint]:
        """Threshold and temperature of each class, from detections that a user has checked.

        ``predict(images, score_thr={name: point.threshold for name, point in points.items()})`` uses the thresholds.

        Args:
            checked: Per image its detections, from :meth:`predict` at a low threshold, and for each of them whether it
                is confirmed (True) or removed (False).
            min_checked: A class with fewer detections gets the numbers of all classes together.

        Raises:
            InputError: there is no detection, or the number of flags differs from that of the detections.
        """
        scores, names, confirmed = [], [], []
        for i, (sample, flags) in enumerate(checked):
            record = as_record(sample)
            if len(flags) != len(record['scores']):
                raise InputError(
                    f'calibrate: image {i} has {len(record["scores"])} detections, but {len(flags)} flags; '
                    'give one for each'
                )
            scores += record['scores']
            names += record['names']
            confirmed += list(flags)
        return operating_points(scores, names, confirmed, min_checked)

    def exemplar_similarity(
        self, images: Sequence[ImageLike], boxes: Sequence[Any], names: Sequence[str | Sequence[str]]
    ) -> ExemplarSimilarity:
        """Compare the embeddings of exemplars, to find those that do not resemble their class.

        Args:
            images: n images.
            boxes: Per image (m, 4) pixel xyxy, m >= 1.
            names: Per image one name, or m names.

        Returns:
            Similarities and outliers, one entry per box, in the order of the images.

        Raises:
            InputError: an image, a box or a name is invalid.
        """
        encoded = self.encode_annotated(images, boxes, names)
        labels = [name for image in encoded for name in image.names]
        rows = torch.cat([image.embeddings for image in encoded]).float().cpu()
        return exemplar_similarity(rows.numpy(), np.array(labels))

    # ---------------------------------------------------------------- detections

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        prompts: PromptSet | PromptBank | Mapping[str, Any] | Sequence | str | None = None,
        **options: Any,
    ) -> list[DetDataSample] | list[dict[str, Any]]:
        """Set prompts and detect them on images, in one call.

        Args:
            images: See :meth:`predict`.
            prompts: New prompts, which stay set afterwards. One of: a list of visual prompts
                ``(image, boxes, names)``, or a single one; class names, as a list or as one text, ``'cat . dog'``; a
                prompt bank or its file; the arguments of :meth:`set_prompts` as a dict; a prompt set that
                :meth:`set_prompts` returned. None: keep the current prompts.
            **options: Arguments of :meth:`predict`, such as ``score_thr``.

        Returns:
            The result of :meth:`predict`.

        Raises:
            InputError: see :meth:`set_prompts` and :meth:`predict`.
        """
        # Set the prompts,
        if isinstance(prompts, PromptSet):
            width = prompts.embeddings.shape[-1]
            if width != self.model.embed_dims:
                raise InputError(
                    f'prompts: embeddings of width {width}, not {self.model.embed_dims}; make them with this model'
                )
            self.prompts, self._bank = prompts.to(self.device), None
        elif prompts is not None:
            self.set_prompts(**prompt_arguments(prompts))
        # then detect.
        return self.predict(images, **options)

    @torch.no_grad()
    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        batch_size: int = 8,
        score_thr: float | Mapping[str, float] = 0.3,
        as_dict: bool = False,
        nms_thr: float | None = None,
        class_agnostic_nms: bool = False,
        tile: int | None = None,
        overlap: float = 0.2,
        flip: bool = False,
    ) -> list[DetDataSample] | list[dict[str, Any]]:
        """Detect the prompts on images.

        Args:
            images: One image, a folder, or a list: paths, BGR arrays (H, W, 3) of uint8, PIL images. Files and PIL
                images are rotated by their EXIF entry.
            batch_size: Maximum number of images per forward pass.
            score_thr: Minimum score of a detection, in [0, 1]; or a dict with that of every class, for example from
                :meth:`calibrate`.
            as_dict: Whether to return :meth:`to_dict` of each sample.
            nms_thr: A detection is removed if its IoU with one of the same class and a higher score is larger, in
                [0, 1]. None, 1: none is removed.
            class_agnostic_nms: Whether detections of different classes remove each other too.
            tile: Detect on the whole image and on overlapping tiles of this many pixels, and merge the detections, see
                :mod:`dinor1.inference.tiling`. None: only on the whole image. The prompts are the same for all tiles.
            overlap: Fraction of a tile that the next one covers too, in [0, 0.9].
            flip: Detect on the mirror image too, left and right exchanged, and merge the detections by the same rules:
                of boxes of one class with an IoU above 0.6 the best remains.

        Returns:
            List with one entry per image, in order, even for a single image. ``pred_instances`` is on the CPU and has
            ``bboxes`` (n, 4) pixel xyxy of the image as given, ``scores`` (n,) in [0, 1], descending, ``labels`` (n,),
            indices into ``prompts.names``, and ``label_names`` (n strings). ``best_scores`` of a sample is a dict with
            the highest score of each class on the image, below the threshold too.

        Raises:
            InputError: no prompts are set, an argument is out of range, or an image is missing or cannot be read.
        """
        # Check the arguments.
        if self.prompts is None:
            raise InputError('no prompts are set: call set_prompts before predict')
        check_batch_size(batch_size)
        thresholds = class_thresholds(score_thr, self.prompts)
        nms_thr = 1 if nms_thr is None else nms_thr
        removal = DuplicateRemoval(iou_threshold=nms_thr, class_agnostic=class_agnostic_nms)
        if tile is not None:
            image_views(1, 1, tile, overlap)
        if not isinstance(flip, bool):
            raise InputError(f'flip must be True or False, got {flip!r}')
        # Detect, on whole images or in several views of each.
        sources = list_images(images)
        if tile is None and not flip:
            results = self._detect(sources, batch_size, thresholds)
        else:
            views = dict(tile=tile, overlap=overlap, flip=flip)
            results = [self._detect_views(source, batch_size, thresholds, views) for source in sources]
        # Remove duplicates.
        for sample in results:
            sample.pred_instances = remove_duplicates(sample.pred_instances, removal)
        return [self.to_dict(sample) for sample in results] if as_dict else results

    @staticmethod
    def to_dict(sample: DetDataSample) -> dict[str, Any]:
        """Convert a sample to numbers and strings, for JSON.

        Returns:
            ``img_path`` (None for an array), ``width`` and ``height`` in pixels, and one entry per detection
            in ``bboxes`` (pixel xyxy), ``scores``, ``labels`` and ``names``.
        """
        return to_record(sample)

    def _detect(self, sources: Sequence[str | np.ndarray], batch_size: int, thresholds: Tensor) -> list[DetDataSample]:
        """Detections that reach the thresholds (num_classes,), on the CPU, with ``best_scores``."""
        # Detect batch by batch, and restore the order of the images.
        results = [DetDataSample() for _ in sources]
        for indices, data in self._batches(sources, batch_size):
            samples = self.model.predict(data['inputs'], data['data_samples'], self.prompts)
            for i, sample in zip(indices, samples, strict=True):
                found = sample.pred_instances.cpu()
                sample.set_metainfo(dict(best_scores=_best_scores(found)))
                sample.pred_instances = found[found.scores >= thresholds[found.labels]]
                results[i] = sample
        return results

    def _detect_views(
        self, source: str | np.ndarray, batch_size: int, thresholds: Tensor, views: dict[str, Any]
    ) -> DetDataSample:
        """As :meth:`_detect`, for one image in several views, see :func:`~dinor1.inference.tiling.detect_views`."""
        samples: list[DetDataSample] = []

        def detect(crops: Sequence[np.ndarray]) -> list[InstanceData]:
            samples.extend(self._detect(crops, batch_size, thresholds))
            return [sample.pred_instances for sample in samples]

        # The first view is the whole image: return its sample with the detections of all views.
        merged = detect_views(self._load(source), detect, **views)
        whole = samples[0]
        whole.pred_instances = merged
        best: dict[str, float] = {}
        for sample in samples:
            best = {name: max(score, best.get(name, 0)) for name, score in (best | sample.best_scores).items()}
        path = source if isinstance(source, str) else None
        whole.set_metainfo(dict(img_path=path, best_scores=best))
        return whole

    def _load(self, image: str | np.ndarray) -> np.ndarray:
        """The pixels (H, W, 3) of an image, as the test pipeline loads it."""
        return self._prepare(image, self._transform.transforms[0])['img']

    def _batches(
        self, images: Sequence[str | np.ndarray], batch_size: int
    ) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Preprocessed batches of images of one size, each with the indices of its images in the list.

        At most ``batch_size`` images are in memory. Images are not padded: convolutions would mix padding into the
        image, and the detections on an image would depend on the other images of its batch.
        """
        for start in range(0, len(images), batch_size):
            # Prepare some images, and group them by size.
            prepared = [self._prepare(image) for image in images[start : start + batch_size]]
            by_size = defaultdict(list)
            for i, item in enumerate(prepared, start):
                by_size[item['inputs'].shape].append(i)
            # Make a batch of each size.
            for indices in by_size.values():
                data = pseudo_collate([prepared[i - start] for i in indices])
                yield indices, self.model.data_preprocessor(data, False)

    def _prepare(self, image: str | np.ndarray, transform: Any = None) -> dict[str, Any]:
        """Run the test pipeline, or one of its transforms, on one image.

        Raises:
            InputError: the file cannot be read, or has floating-point pixels.
        """
        transform = transform or self._transform
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


def _array_pipeline(cfg: Config, name: str) -> Compose:
    """The test pipeline of a config, for paths and arrays, without annotations.

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


def _best_scores(found: InstanceData) -> dict[str, float]:
    """Highest score of each class among the detections, which are in descending order of their scores."""
    best: dict[str, float] = {}
    for name, score in zip(found.label_names, found.scores.tolist(), strict=True):
        best.setdefault(name, score)
    return best


def _describe(image: str | np.ndarray, position: int) -> str:
    """Name of a reference image, for error messages."""
    return image if isinstance(image, str) else f'image {position} (array)'
