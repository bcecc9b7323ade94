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
from torch import Tensor

import dinor1
from dinor1.datasets.resized_image import two_step_pipeline
from dinor1.models import DINOR1
from dinor1.registry import TRANSFORMS
from dinor1.structures import PromptBank, PromptSet
from dinor1.utils.checkpoint import load_model
from dinor1.utils.class_names import check_class_name, class_key, distinct_names
from dinor1.utils.config import load_config
from dinor1.utils.devices import as_device
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint
from dinor1.utils.image_file import can_decode, read_image
from dinor1.utils.released_weights import DEFAULT

from .acceleration import compile_detector, set_inference_dtype
from .arguments import as_list, check_options, class_names, prompt_arguments, visual_prompt, with_negatives
from .image_input import ImageLike, as_path_or_array, list_images
from .released import released_detector
from .visual_prompt import VisualPrompt, as_boxes, as_names, clip_boxes, scale_boxes


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
        class given both by boxes and by name gets the average of both embeddings. Names that differ only in case or
        in surrounding blanks are one class; the first spelling is kept.

        Args:
            visual: Boxes on reference images.
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
        boxes = [as_boxes(v.boxes, where, v.normalized) for v, where in zip(visual, wheres, strict=True)]
        labels = [as_names(v.names, len(b), where) for v, b, where in zip(visual, boxes, wheres, strict=True)]
        names = distinct_names(name for group in labels for name in group)
        keys = [class_key(name) for name in names]
        # Embed the boxes of each image, scaled to the network input.
        rows: list[Tensor] = [torch.empty(0)] * len(images)
        for indices, data in self._batches(images, batch_size):
            samples, scaled = data['data_samples'], []
            for i, sample in zip(indices, samples, strict=True):
                place = (sample.ori_shape, wheres[i])
                pixels = scale_boxes(boxes[i], *place) if visual[i].normalized else clip_boxes(boxes[i], *place)
                box = data['inputs'].new_tensor(pixels)
                scaled.append(box * box.new_tensor(sample.scale_factor).repeat(2))
            features = self.model.encode_image(data['inputs'], samples)
            embeddings = self.model.encode_boxes(features, scaled, [s.img_shape for s in samples]).float().cpu()
            for i, part in zip(indices, embeddings.split([len(box) for box in scaled]), strict=True):
                rows[i] = part
        # Average over the boxes of each class.
        index = torch.tensor([keys.index(class_key(name)) for group in labels for name in group])
        means = PromptSet.from_exemplars(torch.cat(rows), index, names).embeddings
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
            self.set_prompts(**prompt_arguments(prompts))
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
        check_options(batch_size, score_thr)
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
        """Run the test pipeline on one image.

        Raises:
            InputError: the file cannot be read.
        """
        try:
            return self._transform(image)
        except Exception:
            # Errors that do not come from the file keep their message.
            if not isinstance(image, str) or can_decode(image):
                raise
        # The pipeline loads files by OpenCV; give it the content of files that only Pillow reads.
        data = self._transform(read_image(image))
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


def _describe(image: str | np.ndarray, position: int) -> str:
    """Name of a reference image, for error messages."""
    return image if isinstance(image, str) else f'image {position} (array)'
