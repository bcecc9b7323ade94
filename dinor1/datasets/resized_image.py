"""Loading and resizing of an image in one step, which decodes JPEG files at reduced size or uses a cache."""

from collections.abc import Iterable
from typing import Any

import mmcv
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import Resize
from mmengine import fileio

from dinor1.datasets.image_cache import ImageCache, Prepared
from dinor1.datasets.reduced_decoding import decode, read_header, resize_reduced
from dinor1.registry import TRANSFORMS
from dinor1.utils.errors import InputError


@TRANSFORMS.register_module()
class LoadResizedImage(Resize):
    """MMCV's ``LoadImageFromFile`` and MMDetection's ``Resize`` in one step.

    Put it in the place of ``Resize``, and leave out ``LoadImageFromFile``. Size, boxes, ``ori_shape`` and
    ``scale_factor`` are exactly those of the two transforms. Masks are not supported: they need the size of the image
    before it is loaded. Differences:

    - A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size if that is not smaller than the target size. Pixels then
      differ slightly: the decoder averages pixels that ``Resize`` skips.
    - With ``cache``, images come from a memory-mapped file, which :class:`~dinor1.datasets.CocoPromptDataset` builds
      when it is initialised. The cached pixels equal the loaded ones.

    Without a cache, ``RandomChoiceResize`` and ``RandomResize`` accept it as ``resize_type='LoadResizedImage'``.

    Args:
        scale: As in ``Resize``: (width, height) in pixels; with ``keep_ratio``, the limits of the longer and the
            shorter side. None keeps the size of the file.
        keep_ratio: As in ``Resize``.
        clip_object_border: As in ``Resize``.
        backend: As in ``Resize``.
        interpolation: As in ``Resize``.
        load: Arguments of ``LoadImageFromFile``.
        reduce: False decodes at full size, and pixels then equal those of the two transforms. Images are reduced only
            with the default ``backend``, ``interpolation`` and ``imdecode_backend``.
        cache: Arguments of :class:`~dinor1.datasets.image_cache.ImageCache`, such as
            ``dict(folder='work_dirs/cache', max_gib=4)``; None loads from the files.

    Raises:
        InputError: ``scale`` is not positive, or images loaded with the arguments ``load`` cannot be cached.
    """

    def __init__(
        self,
        scale: int | tuple[int, int] | None = None,
        keep_ratio: bool = False,
        clip_object_border: bool = True,
        backend: str = 'cv2',
        interpolation: str = 'bilinear',
        load: dict[str, Any] | None = None,
        reduce: bool = True,
        cache: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            scale=tuple(scale) if isinstance(scale, list) else scale,
            scale_factor=1.0 if scale is None else None,
            keep_ratio=keep_ratio,
            clip_object_border=clip_object_border,
            backend=backend,
            interpolation=interpolation,
        )
        # RandomChoiceResize builds its transform with 0 and sets the scale for every image.
        if scale not in (None, 0) and min(self.scale) < 1:
            raise InputError(f'LoadResizedImage: scale must be positive, got {scale}')
        self.load_args = dict(load or {})
        self.loader = LoadImageFromFile(**self.load_args)
        self.reduce = reduce and (backend, interpolation) == ('cv2', 'bilinear')
        self.cache = None if cache is None else ImageCache(**cache)
        if self.cache is not None:
            self._check_cacheable()

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Load the image of ``img_path``, and resize it together with the boxes in ``results``.

        Returns:
            ``results`` with ``img``, (H, W, 3) uint8 BGR; ``img_shape``, (H, W); ``ori_shape``, (height, width) of the
            file; and ``scale_factor`` between them, (width, height). None if the file cannot be loaded and
            ``ignore_empty`` is set.

        Raises:
            InputError: the file is not an image, or there is a cache that has not been built.
        """
        # Read the prepared image from the cache, or load it.
        path = results['img_path']
        prepared = None if self.cache is None else self.cache.get(path)
        if prepared is None:
            try:
                prepared = self._load(path)
            except Exception:
                if self.loader.ignore_empty:
                    return None
                raise
        # Resize the image and the boxes.
        results['img'], results['ori_shape'] = prepared
        resized: dict[str, Any] = super().transform(results)
        return resized

    def build_cache(self, paths: Iterable[str]) -> None:
        """Build the cache of these images; does nothing without a cache.

        Raises:
            InputError: see :meth:`ImageCache.build <dinor1.datasets.image_cache.ImageCache.build>`.
        """
        if self.cache is None:
            return
        settings = [
            self.scale,
            self.keep_ratio,
            self.backend,
            self.interpolation,
            self.reduce,
            sorted(self.load_args.items()),
        ]
        self.cache.build(paths, settings, self._size, self._load)

    def _resize_img(self, results: dict[str, Any]) -> None:
        """Record size and scale of the image, which is already resized; called by ``Resize``."""
        (height, width), (full_height, full_width) = results['img'].shape[:2], results['ori_shape']
        results['img_shape'] = (height, width)
        results['scale_factor'] = (width / full_width, height / full_height)
        results['keep_ratio'] = self.keep_ratio

    def _target(self, full: tuple[int, int]) -> tuple[int, int]:
        """(height, width) to which ``Resize`` scales an image of the (height, width) ``full``."""
        if self.scale is None:
            return full
        if min(self.scale) < 1:
            raise InputError(f'LoadResizedImage: scale must be positive, got {self.scale}')
        width, height = mmcv.rescale_size(full[::-1], self.scale) if self.keep_ratio else self.scale
        return height, width

    def _load(self, path: str) -> Prepared:
        """The resized image of a file, and the (height, width) of the file."""
        loader = self.loader
        # Read as LoadImageFromFile does.
        if loader.file_client_args is not None:
            content = fileio.FileClient.infer_client(loader.file_client_args, path).get(path)
        else:
            content = fileio.get(path, backend_args=loader.backend_args)
        # Decode at reduced size where possible.
        try:
            image, full, factor = decode(content, self._target, loader.color_type, loader.imdecode_backend, self.reduce)
        except InputError as error:
            raise InputError(f'{path}: {error}') from None
        if loader.to_float32:
            image = image.astype('float32')
        # Resize to the target size of the full image.
        target = self._target(full)
        if (full[0] % factor, full[1] % factor) != (0, 0):
            image = resize_reduced(image, full, factor, target)
        elif image.shape[:2] != target:
            image = mmcv.imresize(image, target[::-1], interpolation=self.interpolation, backend=self.backend)
        return image, full

    def _size(self, path: str) -> tuple[int, int]:
        """(height, width) of the resized image of a file, from its header if Pillow can read it."""
        header = read_header(path, self.loader.color_type)
        return self._load(path)[0].shape[:2] if header is None else self._target((header.height, header.width))

    def _check_cacheable(self) -> None:
        """Raise InputError unless images are local, in colour and uint8."""
        loader = self.loader
        reasons = {
            'to_float32': loader.to_float32,
            'ignore_empty': loader.ignore_empty,
            'backend_args': loader.backend_args is not None or loader.file_client_args is not None,
            f'color_type={loader.color_type!r}': loader.color_type not in ('color', 'color_ignore_orientation'),
        }
        for name, found in reasons.items():
            if found:
                raise InputError(
                    f'LoadResizedImage: load has {name}, which cannot be cached; leave out this or the cache'
                )


def two_step_pipeline(transform: dict[str, Any]) -> list[dict[str, Any]]:
    """Configs of ``LoadImageFromFile`` and ``Resize`` that equal a ``LoadResizedImage`` with ``reduce=False``.

    Args:
        transform: Config of a ``LoadResizedImage``.
    """
    resize = {name: value for name, value in transform.items() if name not in ('type', 'load', 'reduce', 'cache')}
    if resize.get('scale') is None:
        resize.update(scale=None, scale_factor=1.0)
    return [dict(transform.get('load') or {}, type='LoadImageFromFile'), dict(resize, type='Resize')]
