"""Detection in three steps: load a model, set prompts, predict."""

import difflib
import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from torch import Tensor

import dinor1
from dinor1.datasets.resized_image import two_step_pipeline
from dinor1.models import DINOR1
from dinor1.registry import TRANSFORMS
from dinor1.structures import PromptBank, PromptSet
from dinor1.utils.checkpoint import load_model
from dinor1.utils.config import load_config
from dinor1.utils.devices import as_device
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint
from dinor1.utils.image_file import can_decode
from dinor1.utils.released_weights import DEFAULT

from .acceleration import compile_detector, set_inference_dtype
from .class_names import split_text
from .image_input import ImageLike, as_path_or_array, list_images
from .released import released_detector
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
        class given both by boxes and by name gets the average of both embeddings.

        Args:
            visual: Boxes on reference images.
            text: Class names, or one text such as ``'cat . dog'``.
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
        names = split_text(text) if isinstance(text, str) else list(dict.fromkeys(text))
        banks = []
        if bank is not None:
            banks.append(self._own_bank(bank))
        if len(visual):
            banks.append(self._embed([_visual_prompt(item, i) for i, item in enumerate(visual)]))
        if not banks and not names:
            raise InputError('no prompts: give boxes on a reference image, class names or a prompt bank')
        # Join the banks, and average them with the text prompts.
        merged = _merge(banks) if banks else None
        sets = [merged.prompt_set()] if merged else []
        if names:
            sets.append(self.model.text_prompt_set(names).to('cpu'))
        prompts = sets[0] if len(sets) == 1 else sets[0].mix(sets[1])
        # Mark the negative classes, and store the prompts.
        prompts = _with_negatives(prompts, [negative] if isinstance(negative, str) else list(negative))
        self.prompts, self._bank = prompts.to(self.device), merged
        return self.prompts

    def reset_prompts(self) -> None:
        """Remove all prompts."""
        self.prompts = self._bank = None

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
        where = 'this prompt bank' if isinstance(bank, PromptBank) else f'{bank}: this prompt bank'
        if not isinstance(bank, PromptBank):
            bank = PromptBank.load(bank, self._fingerprint)
        if bank.fingerprint != self._fingerprint:
            raise InputError(f'{where} was made by another model; rebuild it with this checkpoint')
        # Compare the width of the embeddings.
        width = bank.embeddings.shape[-1]
        if width != self.model.embed_dims:
            raise InputError(f'{where} has embeddings of width {width}, not {self.model.embed_dims}; rebuild it')
        return bank

    def _embed(self, visual: list[VisualPrompt], batch_size: int = 8) -> PromptBank:
        """Bank of boxes on reference images: the mean embedding of each class."""
        # Check images, boxes and names.
        images = [as_path_or_array(item.image, f'reference image {i}') for i, item in enumerate(visual)]
        wheres = [_describe(image, i) for i, image in enumerate(images)]
        boxes = [as_boxes(item.boxes, where) for item, where in zip(visual, wheres, strict=True)]
        labels = [as_names(v.names, len(b), where) for v, b, where in zip(visual, boxes, wheres, strict=True)]
        names = list(dict.fromkeys(name for group in labels for name in group))
        # Embed the boxes of each image, scaled to the network input.
        rows: list[Tensor] = [torch.empty(0)] * len(images)
        row_labels = list(rows)
        for indices, data in self._batches(images, batch_size):
            samples, scaled = data['data_samples'], []
            for i, sample in zip(indices, samples, strict=True):
                box = data['inputs'].new_tensor(clip_boxes(boxes[i], sample.ori_shape, wheres[i]))
                scaled.append(box * box.new_tensor(sample.scale_factor).repeat(2))
            features = self.model.encode_image(data['inputs'], samples)
            indexed = [
                torch.tensor([names.index(n) for n in labels[i]], dtype=torch.long, device=scaled[0].device)
                for i in indices
            ]
            embeddings, parts = self.model.encode_exemplars(features, scaled, indexed, [s.img_shape for s in samples])
            lengths = [len(part) for part in parts]
            for i, row, part in zip(indices, embeddings.float().cpu().split(lengths), parts, strict=True):
                rows[i], row_labels[i] = row, part.cpu()
        # Average over the embeddings of each class, and count its boxes.
        means = PromptSet.from_exemplars(torch.cat(rows), torch.cat(row_labels), names).embeddings
        index = torch.tensor([names.index(name) for group in labels for name in group])
        return PromptBank(means, tuple(names), tuple(index.bincount().tolist()), self._fingerprint)

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
            **options: ``batch_size``, ``score_thr`` and ``as_dict`` of :meth:`predict`.

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
            self.set_prompts(**_prompt_arguments(prompts))
        # then detect.
        return self.predict(images, **options)

    @torch.no_grad()
    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        batch_size: int = 8,
        score_thr: float = 0.3,
        as_dict: bool = False,
    ) -> list[DetDataSample] | list[dict[str, Any]]:
        """Detect the prompts on images.

        Args:
            images: One image, a folder, or a list: paths, BGR arrays (H, W, 3) of uint8, PIL images. Files and PIL
                images are rotated by their EXIF entry.
            batch_size: Maximum number of images per forward pass.
            score_thr: Minimum score of a detection, in [0, 1].
            as_dict: Whether to return :meth:`to_dict` of each sample.

        Returns:
            List with one entry per image, in order, even for a single image. ``pred_instances`` is on the CPU and has
            ``bboxes`` (n, 4) pixel xyxy of the image as given, ``scores`` (n,) in [0, 1], descending, ``labels`` (n,),
            indices into ``prompts.names``, and ``label_names`` (n strings).

        Raises:
            InputError: no prompts are set, an argument is out of range, or an image is missing or cannot be read.
        """
        # Check the arguments.
        if self.prompts is None:
            raise InputError('no prompts are set: call set_prompts before predict')
        if type(batch_size) is not int or batch_size < 1:
            raise InputError(f'batch_size must be an integer of at least 1, got {batch_size!r}')
        if not isinstance(score_thr, Real) or not 0 <= score_thr <= 1:
            raise InputError(f'score_thr must be a number in [0, 1], got {score_thr!r}')
        # Detect batch by batch, and restore the order of the images.
        sources = list_images(images)
        results: list[DetDataSample | None] = [None] * len(sources)
        for indices, data in self._batches(sources, batch_size):
            samples = self.model.predict(data['inputs'], data['data_samples'], self.prompts)
            for i, sample in zip(indices, samples, strict=True):
                found = sample.pred_instances.cpu()
                sample.pred_instances = found[found.scores >= score_thr]
                results[i] = sample
        return [self.to_dict(sample) for sample in results] if as_dict else results

    @staticmethod
    def to_dict(sample: DetDataSample) -> dict[str, Any]:
        """Convert a sample to numbers and strings, for JSON.

        Returns:
            ``img_path`` (None for an array), ``width`` and ``height`` in pixels, and one entry per detection
            in ``bboxes`` (pixel xyxy), ``scores``, ``labels`` and ``names``.
        """
        found, (height, width) = sample.pred_instances, sample.ori_shape
        return dict(
            img_path=sample.img_path,
            width=width,
            height=height,
            bboxes=found.bboxes.tolist(),
            scores=found.scores.tolist(),
            labels=found.labels.tolist(),
            names=list(found.label_names),
        )

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

    def _prepare(self, image: str | np.ndarray) -> dict[str, Any]:
        """Run the test pipeline on one image."""
        try:
            return self._transform(image)
        except Exception as error:
            # Blame the image only if it cannot be read; other errors keep their message.
            if isinstance(image, str) and not can_decode(image):
                raise InputError(f'{image}: not an image that can be read; restore the file') from error
            raise


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


def _prompt_arguments(prompts: Any) -> dict[str, Any]:
    """Convert the short forms of prompts to arguments of :meth:`DINOR1Inferencer.set_prompts`.

    Raises:
        InputError: ``prompts`` has none of these forms.
    """
    # A bank, a text, or a single visual prompt.
    if isinstance(prompts, PromptBank | PathLike) or (isinstance(prompts, str) and prompts.endswith('.safetensors')):
        return dict(bank=prompts)
    if isinstance(prompts, str):
        return dict(text=_no_file(prompts))
    single = isinstance(prompts, tuple | list) and len(prompts) == 3 and not isinstance(prompts[0], tuple | list)
    if single and not isinstance(prompts[1], str):
        return dict(visual=[tuple(prompts)])
    # The arguments themselves.
    if isinstance(prompts, Mapping):
        known = inspect.signature(DINOR1Inferencer.set_prompts).parameters
        if unknown := [key for key in prompts if key not in known or key == 'self']:
            raise InputError(f'prompts: unknown key {unknown[0]!r}; give visual, text, bank or negative')
        return dict(prompts)
    # A list of class names, or of visual prompts.
    if isinstance(prompts, Sequence):
        texts = [item for item in prompts if isinstance(item, str)]
        if texts and len(texts) == len(prompts):
            return dict(text=[_no_file(text) for text in texts])
        return dict(visual=prompts)
    raise InputError(f'prompts: expected boxes on images, names, a bank or a dict of these, got {prompts!r}')


def _no_file(text: str) -> str:
    """A class name, or several in one text.

    Raises:
        InputError: it is the path of a file.
    """
    if Path(text).is_file():
        raise InputError(
            f'prompts: {text} is a file, not a class name; give (image, boxes, names) for an image, and '
            'dict(bank=FILE) for a prompt bank'
        )
    return text


def _visual_prompt(item: Any, position: int) -> VisualPrompt:
    """Check that a visual prompt has three parts, and name them.

    Raises:
        InputError: the item is not a tuple of three.
    """
    if not isinstance(item, tuple | list) or len(item) != 3:
        raise InputError(f'visual prompt {position}: expected a list of (image, boxes, names), got {item!r}')
    return VisualPrompt(*item)


def _describe(image: str | np.ndarray, position: int) -> str:
    """Name of a reference image, for error messages."""
    return image if isinstance(image, str) else f'image {position} (array)'


def _merge(banks: Sequence[PromptBank]) -> PromptBank:
    """Join banks; the embedding of a class is the mean over its exemplars in all banks."""
    if len(banks) == 1:
        return banks[0]
    # Sum the exemplars of each class over the banks, then divide by their number.
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = defaultdict(int)
    for bank in banks:
        for name, row, count in zip(bank.names, bank.embeddings, bank.num_exemplars, strict=True):
            sums[name] = sums.get(name, 0) + row * count
            counts[name] += count
    means = torch.stack([total / counts[name] for name, total in sums.items()])
    return PromptBank(means, tuple(sums), tuple(counts[name] for name in sums), banks[0].fingerprint)


def _with_negatives(prompts: PromptSet, negative: Sequence[str]) -> PromptSet:
    """Mark classes as negative.

    Raises:
        InputError: a name is not among the prompts, or no positive class remains.
    """
    # Check the names.
    for name in negative:
        if name not in prompts.names:
            close = difflib.get_close_matches(name, prompts.names, n=1) or [', '.join(prompts.names)]
            raise InputError(f'negative prompt {name!r} is not among the prompts; did you mean {close[0]!r}?')
    if prompts.names and set(prompts.names) <= set(negative):
        raise InputError('all prompts are negative, so that nothing would be reported; give a positive prompt')
    # Mark the classes.
    hidden = torch.tensor([name in negative for name in prompts.names])
    return replace(prompts, negative=hidden)
