"""Check that this package reproduces the published AP of published checkpoints.

MM-Grounding-DINO, X. Zhao et al., arXiv 2401.02361: zero-shot on COCO val2017, prompted with the 80 class names. Two
detectors load the weights: MMDetection's ``GroundingDINO``, with our operators in the place of MMCV's compiled ones,
and :class:`~dinor1.models.DINOR1` with a prompt per token of the text, which computes the same function
(``tests/models/test_grounding_dino_parity.py``). Images are prepared as in MMDetection's config; the data set and the
metric are those of this package.
"""

import copy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hub import get_config

from dinor1.datasets.coco_val import CocoVal, coco_val
from dinor1.engine import Runner
from dinor1.registry import MODELS
from dinor1.utils.checkpoint import load_weights
from dinor1.utils.config import load_config
from dinor1.utils.devices import as_device
from dinor1.utils.download import fetch
from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json, sha256, write_json
from dinor1.utils.packaged_files import checksum_in_name

TOLERANCE = 0.1
"""Largest difference of AP, in points, that counts as agreement; the published AP is rounded to 0.1."""

DETECTORS = ('mmdetection', 'dinor1')

# Buffer of BERT, a range from 0 on, that transformers before release 4.31 saved with the weights.
_SURPLUS = ('language_model.language_backbone.body.model.embeddings.position_ids',)
_MIRROR = ('https://download.openmmlab.com/', 'https://mmassets.onedl.ai/')


@dataclass(frozen=True)
class PublishedResult:
    """A checkpoint and its published result.

    Attributes:
        name: Name of the model.
        ap: Box AP on COCO val2017, in points.
        num_images: Number of evaluated images.
        grounding_dino: Config of MMDetection's detector.
        dinor1: Config of our detector, without a language model; its ``load_from`` is the address of the checkpoint.
    """

    name: str
    ap: float
    num_images: int
    grounding_dino: str
    dinor1: str


MM_GROUNDING_DINO_T = PublishedResult(
    name='MM-Grounding-DINO-T',
    ap=50.4,
    num_images=5000,
    grounding_dino='mmdet::mm_grounding_dino/grounding_dino_swin-t_pretrain_obj365_goldg_grit9m_v3det.py',
    dinor1='vis_gdino/vis-gdino_swin-t_8xb32_12e_coco',
)


@dataclass(frozen=True)
class VerifyOptions:
    """Options of an evaluation, and paths of its files.

    Attributes:
        data_root: Folder of COCO, see :func:`~dinor1.datasets.coco_val.coco_val`.
        download: Whether to download missing files of COCO.
        checkpoint: Checkpoint file; None: the published checkpoint, downloaded to the cache of ``torch.hub``.
        bert: Folder with BERT and its tokenizer; None: ``bert-base-uncased`` of the Hugging Face hub.
        detectors: Detectors to evaluate, of :data:`DETECTORS`.
        subset: Evaluate only this number of images, without a comparison; None: all images.
        device: Name such as ``'cuda:0'``; None: the GPU if there is one.
        work_dir: Folder for logs and results.
    """

    data_root: str
    download: bool = False
    checkpoint: str | None = None
    bert: str | None = None
    detectors: tuple[str, ...] = DETECTORS
    subset: int | None = None
    device: str | None = None
    work_dir: str = 'work_dirs/verify_published'


@dataclass(frozen=True)
class Comparison:
    """Measured and published AP of one detector.

    Attributes:
        detector: One of :data:`DETECTORS`.
        ap: Measured box AP, in points.
        published: Published box AP, in points; None: not compared, because other images were evaluated.
    """

    detector: str
    ap: float
    published: float | None

    @property
    def agrees(self) -> bool | None:
        """Whether the two differ by at most :data:`TOLERANCE`; None: they are not compared."""
        if self.published is None:
            return None
        # Allow for rounding: in floating point, 50.5 - 50.4 is more than 0.1.
        return abs(self.ap - self.published) <= TOLERANCE + 1e-9

    def __str__(self) -> str:
        if self.published is None:
            return f'{self.detector}: AP {self.ap:.2f}'
        verdict = 'agrees' if self.agrees else f'differs by more than {TOLERANCE}'
        difference = f'{self.ap - self.published:+.2f}'
        return f'{self.detector}: AP {self.ap:.2f}, published {self.published:.1f}, difference {difference}: {verdict}'


def verify(options: VerifyOptions, published: PublishedResult = MM_GROUNDING_DINO_T) -> list[Comparison]:
    """Evaluate a published checkpoint with its class names as prompts.

    The results, and how they were obtained, are written to ``verify_published.json`` in the work directory.

    Args:
        options: Options of the evaluation.
        published: The checkpoint and its result.

    Returns:
        One comparison per detector.

    Raises:
        InputError: a file is missing and cannot be downloaded, a file is not the expected one, or an option is invalid.
    """
    # Check the options.
    device = as_device(options.device, '--device')
    if options.subset is not None and options.subset < 1:
        raise InputError(f'--subset must be at least 1, got {options.subset}')
    # Find or download the files, the smallest first.
    theirs, ours = _read_configs(published, options.bert)
    _check_language_model(theirs.model.language_model, options.bert)
    checkpoint = options.checkpoint or str(_fetch_checkpoint(ours.load_from))
    digest = _checksum(checkpoint, ours.load_from)
    data = coco_val(options.data_root, options.download)
    if data.num_images != published.num_images:
        raise InputError(
            f'{data.ann_file}: has {data.num_images:,} images, but the published AP is of {published.num_images:,}; '
            'give the official file of COCO val2017'
        )
    if options.subset is not None:
        data = _first_images(data, options.subset, Path(options.work_dir))
    # Evaluate.
    comparisons = []
    for detector in options.detectors:
        cfg = _evaluation_config(detector, theirs, ours, data, str(Path(options.work_dir, detector)))
        ap = _average_precision(cfg, checkpoint, device)
        comparisons.append(Comparison(detector, ap, published.ap if options.subset is None else None))
    # Record the results.
    record = dict(
        model=published.name,
        checkpoint=checkpoint,
        checkpoint_sha256=digest,
        num_images=data.num_images,
        results=[dict(detector=c.detector, ap=c.ap, published=c.published, agrees=c.agrees) for c in comparisons],
        tolerance=TOLERANCE,
        device=str(device),
        torch=torch.__version__,
        command=shlex.join(sys.argv),
    )
    write_json(record, Path(options.work_dir) / 'verify_published.json', indent=2)
    return comparisons


def _read_configs(published: PublishedResult, bert: str | None) -> tuple[Config, Config]:
    """Read the configs of MMDetection's detector and of ours, with the same language model."""
    # Read MMDetection's config, with weights from the checkpoint and without activation checkpointing by fairscale.
    external = '::' in published.grounding_dino
    theirs = get_config(published.grounding_dino) if external else load_config(published.grounding_dino)
    theirs.model.encoder.num_cp = 0
    theirs.model.backbone.init_cfg = None
    if bert is not None:
        theirs.model.language_model.name = bert
    # Read our config with the same language model.
    language_model = theirs.model.language_model.to_dict()
    ours = load_config(published.dinor1, {'model.prompts.language_model': language_model})
    ours.model.backbone.init_cfg = None
    return theirs, ours


def _check_language_model(language_model: Config, bert: str | None) -> None:
    """Build the language model once, before large files are downloaded.

    Raises:
        InputError: the language model cannot be loaded.
    """
    if bert is not None and not Path(bert).is_dir():
        raise InputError(f'--bert {bert}: no such folder; give a folder with BERT and its tokenizer')
    try:
        MODELS.build(copy.deepcopy(language_model))
    except OSError as error:
        name = language_model.name
        if bert is not None:
            reason = ' '.join(str(error).split())[:200]
            raise InputError(f'--bert {bert}: cannot be loaded ({reason}); give a folder with BERT') from error
        raise InputError(
            f'{name}: cannot be downloaded from the Hugging Face hub; download config.json, model.safetensors, '
            f'vocab.txt, tokenizer.json and tokenizer_config.json of https://huggingface.co/{name} into a folder on '
            'another machine, and give --bert FOLDER'
        ) from error


def _fetch_checkpoint(url: str) -> Path:
    """Download the published checkpoint to the folder in which ``load_from`` of a training looks for it."""
    name = url.rsplit('/', 1)[-1]
    urls = list(dict.fromkeys([url, url.replace(*_MIRROR)]))
    return fetch(urls, Path(torch.hub.get_dir()) / 'checkpoints' / name, checksum_in_name(name))


def _checksum(checkpoint: str, url: str) -> str:
    """SHA-256 of a checkpoint, with a warning if it is not the published file."""
    if not Path(checkpoint).is_file():
        raise InputError(f'{checkpoint}: no such checkpoint')
    digest = sha256(checkpoint)
    if not digest.startswith(checksum_in_name(url)):
        print(f'warning: {checkpoint} is not the published file {url.rsplit("/", 1)[-1]}', file=sys.stderr)
    return digest


def _first_images(data: CocoVal, number: int, work_dir: Path) -> CocoVal:
    """Write an annotation file of the first images of the validation set to the work directory."""
    # Choose the first images and their annotations.
    content = read_json(data.ann_file)
    images = content['images'][:number]
    ids = {image['id'] for image in images}
    annotations = [annotation for annotation in content['annotations'] if annotation['image_id'] in ids]
    # Write them to a file whose name states the number of images.
    ann_file = work_dir / f'{data.ann_file.stem}_first_{len(images)}.json'
    write_json(content | dict(images=images, annotations=annotations), ann_file)
    return CocoVal(ann_file, data.img_dir, len(images))


def _evaluation_config(detector: str, theirs: Config, ours: Config, data: CocoVal, work_dir: str) -> Config:
    """Make a config that tests one detector with the class names of the data set as prompts."""
    # Set the data and the metric.
    cfg = copy.deepcopy(ours)
    ann_file = str(data.ann_file.absolute())
    cfg.test_dataloader = dict(
        batch_size=1,
        num_workers=2,
        persistent_workers=True,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(
            type='CocoPromptDataset',
            ann_file=ann_file,
            data_prefix=dict(img=str(data.img_dir.absolute())),
            test_mode=True,
            bad_annotations='skip',
            return_classes=True,
            pipeline=theirs.test_dataloader.dataset.pipeline,
        ),
    )
    cfg.test_evaluator = dict(type='CocoPromptMetric', ann_file=ann_file)
    # Set the detector and its test loop.
    if detector == 'dinor1':
        cfg.test_cfg = dict(type='PromptedTestLoop', prompts=dict(type='TextPrompts'))
    else:
        cfg.model = dict(theirs.model.to_dict(), type='mmdet.GroundingDINO')
        cfg.test_cfg = dict(type='TestLoop')
    # Remove training, validation and their hooks.
    cfg.default_hooks.visualization = cfg.default_hooks.reference = None
    for part in ('train', 'val'):
        cfg[f'{part}_dataloader'] = cfg[f'{part}_cfg'] = None
    cfg.val_evaluator = cfg.optim_wrapper = cfg.param_scheduler = cfg.load_from = None
    cfg.work_dir, cfg.experiment_name = work_dir, f'verify_published_{detector}'
    return cfg


def _average_precision(cfg: Config, checkpoint: str, device: torch.device) -> float:
    """Test the detector of a config; returns the box AP in points."""
    runner = Runner.from_cfg(cfg)
    load_weights(runner.model, checkpoint, missing=('prompt_encoder.',), surplus=_SURPLUS)
    runner.model.to(device)
    metrics: dict[str, Any] = runner.test()
    return 100 * metrics['coco/bbox_mAP']
