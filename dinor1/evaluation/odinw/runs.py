"""Runs on ODinW: config, annotation files and result files of each.

``tools/test_odinw.py`` executes the runs of :func:`plan`, and averages the results of :func:`store`.
"""

import copy
import functools
import hashlib
import json
import platform
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.utils import get_git_hash

from dinor1.evaluation.odinw.benchmark import Annotations, BenchmarkSet, prepare_annotations
from dinor1.evaluation.odinw.summary import METRICS, read_result
from dinor1.evaluation.protocol_names import PROTOCOLS, TEXT, VISUAL_GENERIC, VISUAL_INTERACTIVE
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError
from dinor1.utils.io import sha256, visible, write_json

# Cached, so that a checkpoint is read once per suite instead of once per run.
_sha256 = functools.cache(sha256)
# Name of a metric -> last part of its name in the COCO metrics of MMDetection and of this project.
_REPORTED = dict(zip(METRICS, ('bbox_mAP', 'bbox_mAP_50'), strict=True))


@dataclass(frozen=True)
class Settings:
    """Settings that all runs of a suite share.

    Attributes:
        config: Config with the model and the pipelines; ``{set}`` in the path is replaced by the name of the set.
        checkpoint: Weights; ``{set}`` is replaced too.
        arm: Name of the model in tables.
        layout: ``odinw`` or ``small``.
        split: ``test`` or ``val``.
        data_root: Folder of the sets.
        out_dir: Folder of the results.
        protocols: Protocols to run; ``None``: all that the model supports.
        num_exemplars: N of visual-generic.
        prompt_seeds: Number of draws of visual-generic.
        captions: Whether text prompts are GLIP's phrases, for the classes that have one.
        cfg_options: Overrides of the config.
        command: The command line, which result files record.
    """

    config: str
    checkpoint: str
    arm: str
    layout: str
    split: str
    data_root: str
    out_dir: Path
    protocols: tuple[str, ...] | None = None
    num_exemplars: int = 16
    prompt_seeds: int = 1
    captions: bool = False
    cfg_options: dict[str, Any] | None = None
    command: str = ''

    def files(self, name: str) -> dict[str, str]:
        """Config and checkpoint of a set."""
        return {key: getattr(self, key).replace('{set}', name) for key in ('config', 'checkpoint')}


class Job(NamedTuple):
    """One run of ``dinor1 test``, on one set with one protocol.

    Attributes:
        title: Name of the run, for messages.
        checkpoint: Weights.
        cfg: Config of the run.
        work_dir: Work directory of the run.
        paths: Result file of each seed.
        seeds: Seeds of the prompts, from 0; ``(None,)`` for text.
        fields: Fields that the result files of all seeds share.
    """

    title: str
    checkpoint: str
    cfg: Config
    work_dir: Path
    paths: tuple[Path, ...]
    seeds: tuple[int | None, ...]
    fields: dict[str, Any]


def plan(settings: Settings, sets: Iterable[BenchmarkSet]) -> list[Job]:
    """The runs on all sets. Annotation files are checked, and copied if their categories must be renamed.

    Raises:
        InputError: config, checkpoint or annotations cannot be used, or text prompts are requested for a model without
            a language model.
    """
    configs: dict[str, Config] = {}
    jobs = []
    for benchmark_set in sets:
        # Read each config once.
        files = settings.files(benchmark_set.name)
        path = files['config']
        if path not in configs:
            configs[path] = _read_config(path, settings.cfg_options)
        # Plan a run for each protocol.
        if not Path(files['checkpoint']).is_file():
            raise InputError(
                f'{files["checkpoint"]}: no such checkpoint; make it, or leave {benchmark_set.name} out with --sets'
            )
        for protocol, seeds in _protocols(settings, path, configs[path]):
            jobs.append(_job(settings, benchmark_set, configs[path], protocol, seeds))
    return jobs


def _protocols(settings: Settings, path: str, cfg: Config) -> list[tuple[dict[str, Any], tuple[int | None, ...]]]:
    """Settings and seeds of each protocol to run."""
    takes_text = cfg.model.get('prompts', {}).get('language_model') is not None
    if not takes_text and TEXT in (settings.protocols or ()):
        raise InputError(f'{path}: the model has no language model and cannot be given text prompts')
    every = {
        TEXT: (dict(protocol=TEXT) | (dict(captions=True) if settings.captions else {}), (None,)),
        VISUAL_GENERIC: (
            dict(protocol=VISUAL_GENERIC, num_exemplars=settings.num_exemplars),
            tuple(range(settings.prompt_seeds)),
        ),
        VISUAL_INTERACTIVE: (dict(protocol=VISUAL_INTERACTIVE), (0,)),
    }
    return [every[name] for name in settings.protocols or PROTOCOLS if takes_text or name != TEXT]


def _prompts(protocol: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """Config of a protocol for the test loop."""
    settings = dict(type=PROTOCOLS[protocol['protocol']].type)
    settings |= {key: value for key, value in protocol.items() if key not in ('protocol', 'captions')}
    return settings if seed is None else dict(settings, seed=seed)


def _read_config(path: str, cfg_options: dict[str, Any] | None) -> Config:
    cfg = load_config(path, copy.deepcopy(cfg_options))
    loop = cfg.get('test_cfg') or {}
    if 'model' not in cfg or loop.get('type') != 'PromptedTestLoop' or not cfg.get('prompt_dataset'):
        raise InputError(
            f'{path}: not a config of a prompted detector, it has no test_cfg of type PromptedTestLoop with a '
            'prompt_dataset'
        )
    if not isinstance(cfg.get('test_evaluator'), dict) or 'ann_file' not in cfg.test_evaluator:
        raise InputError(f'{path}: test_evaluator must be one metric that reads an ann_file')
    return cfg


def _job(settings: Settings, benchmark_set: BenchmarkSet, base: Config, protocol: dict[str, Any], seeds: tuple) -> Job:
    # Check the annotation files.
    stem = protocol['protocol']
    stem += f'_n{protocol["num_exemplars"]}' if 'num_exemplars' in protocol else ''
    captions = protocol.get('captions', False)
    suffix = '_captions' if captions else ''
    copies = settings.out_dir / 'annotations' / benchmark_set.name

    def prepare(split: str) -> Annotations:
        return prepare_annotations(
            benchmark_set, settings.data_root, split, copies / f'{split}{suffix}.json', captions=captions
        )

    split = benchmark_set.split_for(settings.split)
    evaluated = prepare(split)
    exemplars = prepare('train') if protocol['protocol'] == VISUAL_GENERIC else None
    if exemplars is not None and exemplars.names != evaluated.names:
        raise InputError(f'{exemplars.path}: other categories than {evaluated.path}; give files of one release')

    # Adapt the config to the set and the protocol.
    cfg = copy.deepcopy(base)
    root = Path(settings.data_root) / benchmark_set.root
    _set_files(cfg.test_dataloader.dataset, root, benchmark_set.splits[split].img_dir, evaluated, settings.layout)
    cfg.test_evaluator.ann_file = str(evaluated.path.absolute())
    cfg.test_cfg.prompts = _prompts(protocol, seeds[0])
    if exemplars is None:
        cfg.pop('prompt_dataset')
    else:
        _set_files(cfg.prompt_dataset, root, benchmark_set.splits['train'].img_dir, exemplars, settings.layout)

    # Collect the fields of the result files.
    files = settings.files(benchmark_set.name)
    content = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    fields = dict(
        arm=settings.arm,
        **files,
        checkpoint_sha256=_sha256(files['checkpoint']),
        config_sha256=hashlib.sha256(content.encode()).hexdigest(),
        suite_command=settings.command,
        set=benchmark_set.name,
        member=benchmark_set.member,
        layout=settings.layout,
        deviation=benchmark_set.deviation,
        split=split,
        split_policy=settings.split,
        ann_file=str(evaluated.path),
        num_images=evaluated.images,
        num_boxes=evaluated.boxes,
        protocol=protocol,
        warnings=[a.warning for a in (evaluated, exemplars) if a is not None and a.warning],
    )
    names = [stem + suffix + ('' if seed is None else f'_seed{seed}') for seed in seeds]
    return Job(
        title=f'{benchmark_set.name} {stem}{suffix}',
        checkpoint=files['checkpoint'],
        cfg=cfg,
        work_dir=settings.out_dir / 'work' / benchmark_set.name / f'{stem}{suffix}',
        paths=tuple(settings.out_dir / 'runs' / benchmark_set.name / f'{name}.json' for name in names),
        seeds=seeds,
        fields=fields,
    )


def _set_files(dataset: dict[str, Any], root: Path, img_dir: str, annotations: Annotations, layout: str) -> None:
    """Set the files of a data set's config."""
    dataset.update(data_root=str(root), ann_file=str(annotations.path.absolute()), data_prefix=dict(img=img_dir))
    # Use the classes of the file: a choice of classes in the config is for another set.
    dataset.pop('metainfo', None)
    # Accept defective boxes in released files, which must not be changed; the metric counts them.
    dataset['bad_annotations'] = 'skip' if layout == 'odinw' else 'error'


def finished(job: Job) -> bool:
    """Whether the results of all seeds exist; :func:`refuse_other_results` checks their weights.

    Raises:
        InputError: a result is broken or was computed with another config.
    """
    if not all(path.is_file() for path in job.paths):
        return False
    for path in job.paths:
        result = read_result(path)
        if result.get('config_sha256') != job.fields['config_sha256']:
            raise InputError(f'{path}: the config or its settings have changed since; run again with --redo')
    return True


def refuse_other_results(settings: Settings, overwritten: Container[Path] = ()) -> None:
    """Check that all results in ``out_dir`` belong to this suite, so that no other result enters its averages.

    Args:
        settings: Settings of the suite.
        overwritten: Files to skip, because they will be overwritten.

    Raises:
        InputError: a result belongs to another suite, or is broken.
    """
    expected = dict(arm=settings.arm, layout=settings.layout, split_policy=settings.split)
    for path in visible(settings.out_dir, 'runs/*/*.json'):
        if path in overwritten:
            continue
        # Compare settings.
        result = read_result(path)
        here = expected | settings.files(result['set'])
        differing = [f'{key} {result[key]} instead of {value}' for key, value in here.items() if result[key] != value]
        if differing:
            raise InputError(f'{path}: a result of another suite ({", ".join(differing)}); give another --out-dir')
        # Compare weights.
        checkpoint = here['checkpoint']
        if Path(checkpoint).is_file() and result.get('checkpoint_sha256') != _sha256(checkpoint):
            raise InputError(f'{path}: the checkpoint has changed since; run {result["set"]} again with --redo')


def store(job: Job, command: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write the result file of each seed from the metrics that ``dinor1 test`` wrote.

    Args:
        job: The run.
        command: Its command line.
        record: Content of ``metrics.json``.

    Raises:
        InputError: there is no AP, for example because the annotation file has no box.
    """
    # A test without a list of seeds has one run.
    runs = record.get('runs') or [dict(prompts=record['protocol'], metrics=record['metrics'])]
    results = []
    for path, seed, one in zip(job.paths, job.seeds, runs, strict=True):
        result = job.fields | dict(
            command=command,
            seed=seed,
            without_exemplar=one['prompts'].get('without_exemplar', []),
            metrics=_scores(one['metrics'], job.title),
            environment=environment(),
        )
        write_json(result, path, indent=2)
        results.append(result)
    return results


def _scores(metrics: Mapping[str, float], title: str) -> dict[str, float]:
    """All metrics, with AP and AP50 under these names."""
    found = {}
    for name, ending in _REPORTED.items():
        values = [value for key, value in metrics.items() if key.split('/')[-1] == ending]
        if len(values) != 1:
            raise InputError(f'{title}: dinor1 test reported no {ending}; use one COCO metric in the config')
        if not values[0] >= 0:
            raise InputError(f'{title}: no {name}, the annotation file has no box to find')
        found[name] = values[0]
    return found | dict(metrics)


@functools.cache
def environment() -> dict[str, str]:
    """Versions that a result depends on."""
    import mmcv
    import mmdet
    import mmengine

    import dinor1

    modules = dict(dinor1=dinor1, torch=torch, mmengine=mmengine, mmcv=mmcv, mmdet=mmdet)
    return dict(
        python=platform.python_version(),
        **{name: str(module.__version__) for name, module in modules.items()},
        commit=get_git_hash(fallback='unknown', digits=10),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else f'cpu ({platform.machine()})',
    )


def mean_scores(results: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """AP and AP50, averaged over the seeds of a run."""
    results = list(results)
    return {name: sum(result['metrics'][name] for result in results) / len(results) for name in METRICS}
