"""Detection in three steps: load a model, set prompts, predict."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from os import PathLike
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import Tensor

import dinor1
from dinor1.models.detectors.duplicates import DuplicateRemoval, duplicates_kept, remove_duplicates
from dinor1.structures import PromptBank, PromptSet
from dinor1.utils.class_names import check_class_name
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint

from .acceleration import compile_detector, set_inference_dtype
from .adaptation import Adaptation, AnnotatedImage, adapt_prompts
from .arguments import (
    as_list,
    check_batch_size,
    check_width,
    class_names,
    class_thresholds,
    prompt_arguments,
    visual_prompt,
    with_negatives,
)
from .bank_loading import load_bank
from .calibration import calibrated
from .exemplar_encoding import annotated_similarity, encode_annotated, exemplar_bank
from .image_detection import ImageDetection
from .image_input import ImageLike, list_images
from .loading import load_detector
from .operating_point import ExemplarSimilarity, OperatingPoint
from .output_formats import Detections, to_record
from .tiling import check_views
from .tuned_head import TunedHead, copy_head, restored_head, set_head
from .visual_prompt import VisualPrompt


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
        bank: The visual prompts among them; None: there are none.
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
        self.model, self._preparation, self.device = load_detector(config, checkpoint, device)
        # Set precision and compilation.
        set_inference_dtype(self.model, dtype, 'dtype')
        if compile:
            compile_detector(self.model, self.device)
        self.prompts: PromptSet | None = None
        self.head: TunedHead | None = None
        self.bank: PromptBank | None = None

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
            head = None if self.head is None else self.head.digest
            banks.append(load_bank(bank, self._fingerprint, head, self.model.embed_dims))
        if boxes:
            banks.append(exemplar_bank(self.model, self._preparation, boxes, self._fingerprint))
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
        self.prompts, self.bank = prompts.to(self.device), merged
        return self.prompts

    def reset_prompts(self) -> None:
        """Remove all prompts."""
        self.prompts = self.bank = None

    def save_bank(self, path: str | PathLike) -> None:
        """Write the visual prompts to a ``.safetensors`` file for ``set_prompts(bank=path)``.

        The file does not contain text prompts, and does not say which prompts are negative: pass both again with the
        bank.

        Raises:
            InputError: there are no visual prompts.
        """
        if self.bank is None:
            raise InputError(f'{path}: there are no visual prompts to save; call set_prompts with boxes first')
        self.bank.save(path)

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.model)

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
        wanted. With three images or more, each image is left out of a tuning in turn, and the result is kept only if
        the mean loss on the images left out falls. With fewer, a few steps are kept unchecked. The result is part of
        the prompts and of :meth:`save_bank`.

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
        return encode_annotated(self.model, self._preparation, images, boxes, names)

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
        return calibrated(checked, min_checked)

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
        return annotated_similarity(self.encode_annotated(images, boxes, names))

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
            check_width(prompts, self.model.embed_dims)
            self.prompts, self.bank = prompts.to(self.device), None
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
                [0, 1]; 1: none is removed. It replaces ``model.test_cfg.nms`` of the config. None: as in the config,
                which is 0.5 for ``lite``; other configs remove none.
            class_agnostic_nms: Whether detections of different classes remove each other too; needs ``nms_thr``.
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
        if class_agnostic_nms and nms_thr is None:
            raise InputError('class_agnostic_nms needs nms_thr; give a threshold, such as 0.5')
        max_iou = 1 if nms_thr is None else nms_thr
        removal = DuplicateRemoval(iou_threshold=max_iou, class_agnostic=class_agnostic_nms)
        own_rule = nullcontext() if nms_thr is None else duplicates_kept(self.model)
        check_views(tile, overlap, flip)
        # Detect, on whole images or in several views of each.
        detection = ImageDetection(self.model, self._preparation, self.prompts, thresholds, batch_size)
        with own_rule:
            results = detection.on_all(list_images(images), tile, overlap, flip)
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
