"""Published checkpoints: is their published AP what this package computes from their weights?

MM-Grounding-DINO, X. Zhao et al., arXiv 2401.02361: zero-shot on COCO val2017, prompted with the 80 class names. Two
detectors load the weights: MMDetection's ``GroundingDINO``, on the operators that stand in for MMCV's compiled ones,
and :class:`~dinor1.models.DINOR1` with a prompt per token of the text, which computes the same function
(``tests/models/test_grounding_dino_parity.py``). Images are prepared as by MMDetection's config; the data set and the
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
"""Largest difference of AP, in points, that counts as agreement; the published figure is rounded to as much."""

DETECTORS = ('mmdetection', 'dinor1')

# Transformers before release 4.31 saved this buffer of BERT, numbers from 0 on, with the weights.
_SURPLUS = ('language_model.language_backbone.body.model.embeddings.position_ids',)
_MIRROR = ('https://download.openmmlab.com/', 'https://mmassets.onedl.ai/')


@dataclass(frozen=True)
class PublishedResult:
    """A checkpoint and its published result.

    Attributes:
        name: Name of the model.
        ap: Box AP on COCO val2017, in points.
        num_images: Number of images that it was measured on.
        grounding_dino: Config of MMDetection's detector.
        dinor1: Config of the detector of this package, without a language model; its ``load_from`` is the address of
            the checkpoint.
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
    """What to evaluate, and where its files are.

    Attributes:
        data_root: Folder of COCO, see :func:`~dinor1.datasets.coco_val.coco_val`.
        download: Whether to fetch missing files of COCO.
        checkpoint: Checkpoint file; None: the published one, fetched into the cache of ``torch.hub``.
        bert: Folder with BERT, its tokenizer included; None: ``bert-base-uncased`` of the Hugging Face hub.
        detectors: Some of :data:`DETECTORS`.
        subset: Number of images, the first of the annotation file; None: all. Of some images nothing is compared.
        device: Such as ``'cuda:0'``; None: the GPU if there is one.
        work_dir: Where logs and results go.
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
    """AP of one detector beside the published one.

    Attributes:
        detector: One of :data:`DETECTORS`.
        ap: Box AP that was measured, in points.
        published: Box AP that was published, in points; None: of other images, so that there is nothing to compare.
    """

    detector: str
    ap: float
    published: float | None

    @property
    def agrees(self) -> bool | None:
        """Whether the two differ by at most :data:`TOLERANCE`; None: there is nothing to compare."""
        if self.published is None:
            return None
        # 50.5 - 50.4 is more than 0.1 in binary.
        return abs(self.ap - self.published) <= TOLERANCE + 1e-9

    def __str__(self) -> str:
        if self.published is None:
            return f'{self.detector}: AP {self.ap:.2f}'
        verdict = 'agrees' if self.agrees else f'differs by more than {TOLERANCE}'
        difference = f'{self.ap - self.published:+.2f}'
        return f'{self.detector}: AP {self.ap:.2f}, published {self.published:.1f}, difference {difference}: {verdict}'


def verify(options: VerifyOptions, published: PublishedResult = MM_GROUNDING_DINO_T) -> list[Comparison]:
    """Evaluate a published checkpoint with its class names as prompts.

    ``verify_published.json`` in the work directory gets the results, and how they were obtained.

    Args:
        options: What to evaluate.
        published: The checkpoint and its result.

    Returns:
        One comparison per detector.

    Raises:
        InputError: a file is missing and cannot be fetched, or is not what it should be, or an option is invalid.
    """
    device = as_device(options.device, '--device')
    if options.subset is not None and options.subset < 1:
        raise InputError(f'--subset must be at least 1, got {options.subset}')
    # Gather the files, the smallest first.
    theirs, ours = _read_configs(published, options.bert)
    _check_language_model(theirs.model.language_model, options.bert)
    checkpoint = options.checkpoint or str(_fetch_checkpoint(ours.load_from))
    digest = _checksum(checkpoint, ours.load_from)
    data = coco_val(options.data_root, options.download)
    if data.num_images != published.num_images:
        raise InputError(
            f'{data.ann_file}: has {data.num_images:,} images, and the published AP is of {published.num_images:,}; '
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
    """Configs of MMDetection's detector and of ours, which has the same language model."""
    external = '::' in published.grounding_dino
    theirs = get_config(published.grounding_dino) if external else load_config(published.grounding_dino)
    # Recomputing activations, which only a training needs, takes fairscale; and all weights are in the checkpoint.
    theirs.model.encoder.num_cp = 0
    theirs.model.backbone.init_cfg = None
    if bert is not None:
        theirs.model.language_model.name = bert
    language_model = theirs.model.language_model.to_dict()
    ours = load_config(published.dinor1, {'model.prompts.language_model': language_model})
    ours.model.backbone.init_cfg = None
    return theirs, ours


def _check_language_model(language_model: Config, bert: str | None) -> None:
    """Build the language model once, before anything large is fetched.

    Raises:
        InputError: it cannot be loaded.
    """
    if bert is not None and not Path(bert).is_dir():
        raise InputError(f'--bert {bert}: no such folder; give one with BERT and its tokenizer')
    try:
        MODELS.build(copy.deepcopy(language_model))
    except OSError as error:
        name = language_model.name
        if bert is not None:
            reason = ' '.join(str(error).split())[:200]
            raise InputError(f'--bert {bert}: cannot be loaded ({reason}); give a folder with BERT') from error
        raise InputError(
            f'{name}: cannot be fetched from the Hugging Face hub; download config.json, model.safetensors, vocab.txt, '
            f'tokenizer.json and tokenizer_config.json of https://huggingface.co/{name} into a folder on another '
            'machine, and give --bert FOLDER'
        ) from error


def _fetch_checkpoint(url: str) -> Path:
    """The published checkpoint where ``load_from`` of a training looks for it, too."""
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
    """The validation set cut to its first images, with an annotation file in the work directory."""
    content = read_json(data.ann_file)
    images = content['images'][:number]
    ids = {image['id'] for image in images}
    annotations = [annotation for annotation in content['annotations'] if annotation['image_id'] in ids]
    ann_file = work_dir / f'{data.ann_file.stem}_first_{len(images)}.json'
    write_json(content | dict(images=images, annotations=annotations), ann_file)
    return CocoVal(ann_file, data.img_dir, len(images))


def _evaluation_config(detector: str, theirs: Config, ours: Config, data: CocoVal, work_dir: str) -> Config:
    """Config that tests one detector, prompted with the class names of the data set, and trains nothing."""
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
    if detector == 'dinor1':
        cfg.test_cfg = dict(type='PromptedTestLoop', prompts=dict(type='TextPrompts'))
    else:
        cfg.model = dict(theirs.model.to_dict(), type='mmdet.GroundingDINO')
        cfg.test_cfg = dict(type='TestLoop')
    cfg.default_hooks.visualization = cfg.default_hooks.reference = None
    for part in ('train', 'val'):
        cfg[f'{part}_dataloader'] = cfg[f'{part}_cfg'] = None
    cfg.val_evaluator = cfg.optim_wrapper = cfg.param_scheduler = cfg.load_from = None
    cfg.work_dir, cfg.experiment_name = work_dir, f'verify_published_{detector}'
    return cfg


def _average_precision(cfg: Config, checkpoint: str, device: torch.device) -> float:
    """Box AP in points of the detector that a config describes."""
    runner = Runner.from_cfg(cfg)
    load_weights(runner.model, checkpoint, missing=('prompt_encoder.',), surplus=_SURPLUS)
    runner.model.to(device)
    metrics: dict[str, Any] = runner.test()
    return 100 * metrics['coco/bbox_mAP']
