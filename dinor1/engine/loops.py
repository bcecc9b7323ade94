"""Validation and test loops that prompt the detector by the protocol named in the config.

::

    val_cfg = dict(type='PromptedValLoop', prompts=dict(type='VisualGeneric', num_exemplars=16, seed=0))
    test_cfg = dict(type='PromptedTestLoop', prompts=dict(type='VisualInteractive'), seeds=[0, 1, 2])
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner, TestLoop, ValLoop
from mmengine.runner.amp import autocast
from mmengine.utils import ProgressBar
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import DataLoader

from dinor1.engine.augmented_test import predict_views
from dinor1.engine.class_names import check_class_names
from dinor1.engine.query_recorder import QueryRecorder
from dinor1.evaluation import SingleClass, mean_and_std
from dinor1.evaluation.prompt_protocols import (
    EvaluationPrompts,
    PromptedMetric,
    PromptProtocol,
    TextPrompts,
    VisualGeneric,
)
from dinor1.models import DINOR1
from dinor1.registry import LOOPS, TASK_UTILS
from dinor1.structures import DetectorOutput, PromptSet
from dinor1.utils.distributed import unwrapped
from dinor1.utils.errors import InputError
from dinor1.utils.io import write_json


def build_protocol(prompts: dict | PromptProtocol, cfg: Config) -> PromptProtocol:
    """Build a protocol; ``VisualGeneric`` and ``SingleClass`` draw exemplars from ``cfg.prompt_dataset`` by default.

    Raises:
        InputError: ``prompts`` is not a dict with a type, or there is no data set to draw exemplars from.
    """
    # Check the type.
    if isinstance(prompts, PromptProtocol):
        return prompts
    if not isinstance(prompts, Mapping) or 'type' not in prompts:
        raise InputError(f"prompts must be a dict with a type, such as dict(type='VisualGeneric'), got {prompts!r}")
    # Take exemplars from the prompt data set of the config.
    kind = TASK_UTILS.get(prompts['type'])
    if kind in (VisualGeneric, SingleClass) and 'dataset' not in prompts:
        if cfg.get('prompt_dataset') is None:
            raise InputError(
                f'{kind.__name__} needs prompt_dataset, the images to take prompts from; add it to the config'
            )
        prompts = dict(prompts, dataset=cfg.prompt_dataset)
    return TASK_UTILS.build(prompts)


def check_protocol(runner: Runner, protocol: PromptProtocol, dataset: BaseDataset) -> None:
    """Raise an error, before a run begins, if the runner's model cannot be prompted by ``protocol``.

    Raises:
        InputError: the model takes no prompts, does not take those of the protocol, or cannot read a class name of
            the evaluated set.
    """
    model = unwrapped(runner.model)
    if not isinstance(model, DINOR1):
        raise InputError(
            f'{type(model).__name__} takes no prompts; use val_cfg=dict(type="ValLoop") and '
            'test_cfg=dict(type="TestLoop")'
        )
    protocol.check_model(model)
    if isinstance(protocol, TextPrompts):
        check_class_names(model, dataset)


def build_recorder(query_recorder: QueryRecorder | dict | None) -> QueryRecorder | None:
    """Build the recorder from the ``query_recorder`` argument of a loop."""
    return QueryRecorder(**query_recorder) if isinstance(query_recorder, dict) else query_recorder


@LOOPS.register_module()
class PromptedValLoop(ValLoop):
    """MMEngine's validation loop with prompts; every validation computes them from the current weights.

    Args:
        runner: The runner.
        dataloader: Data loader, or its config.
        evaluator: Evaluator, or its config.
        prompts: Config of a protocol, see :mod:`dinor1.evaluation.prompt_protocols`.
        query_recorder: A :class:`~dinor1.engine.query_recorder.QueryRecorder` or a dict of its arguments, to record
            which queries find the objects; None: nothing is recorded.
        fp16: Whether to use mixed precision.

    Raises:
        InputError: the model cannot be prompted in this way.

    Attributes:
        protocol: The protocol.
        prompts: Prompts of the current or the latest validation; None before the first.
        recorder: Recorder of the queries, or None.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        prompts: dict | PromptProtocol,
        query_recorder: QueryRecorder | dict | None = None,
        fp16: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.protocol = build_protocol(prompts, runner.cfg)
        check_protocol(runner, self.protocol, self.dataloader.dataset)
        self.prompts: EvaluationPrompts | None = None
        self.recorder = build_recorder(query_recorder)

    def run(self) -> dict[str, float]:
        """Validate; returns the metrics."""
        self.prompts = None  # the prompts of the last validation were computed from other weights
        if self.recorder is not None:
            self.recorder.start(unwrapped(self.runner.model))
        metrics = super().run()
        if self.recorder is not None:
            name = f'val_epoch_{self.runner.epoch}'
            self.recorder.write(Path(self.runner.work_dir), name, len(self.dataloader.dataset))
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Detect on one batch."""
        # Compute the prompts here and not in run(): hooks such as EMA may replace the weights when the epoch starts.
        if self.prompts is None:
            self.prompts = prepare_prompts(self.runner, self.protocol, self.dataloader.dataset)
            tell_metrics(self.evaluator, self.prompts)
        evaluate_batch(self, 'val', idx, data_batch, self.prompts, self.recorder)


@LOOPS.register_module()
class PromptedTestLoop(TestLoop):
    """MMEngine's test loop with prompts; the whole test is repeated for each of several seeds.

    Args:
        runner: The runner.
        dataloader: Data loader, or its config.
        evaluator: Evaluator, or its config.
        prompts: Config of a protocol, see :mod:`dinor1.evaluation.prompt_protocols`.
        seeds: Seeds of the draws; None: one test with the seed of the protocol.
        query_recorder: A :class:`~dinor1.engine.query_recorder.QueryRecorder` or a dict of its arguments, to record
            which queries find the objects; None: nothing is recorded.
        fp16: Whether to use mixed precision.
        merge_views: How detections on several views of an image are merged, see
            :mod:`dinor1.engine.augmented_test`; None: there is one view.

    Raises:
        InputError: the model cannot be prompted in this way.

    Attributes:
        protocol: The protocol of the current or the latest test.
        prompts: Prompts of the current or the latest test; None before the first.
        recorder: Recorder of the queries, or None.
        results: Per seed of the latest run, the description of the prompts as ``prompts``, and ``metrics``.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        prompts: dict | PromptProtocol,
        seeds: Sequence[int] | None = None,
        query_recorder: QueryRecorder | dict | None = None,
        fp16: bool = False,
        merge_views: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        # Check the arguments, and that the protocol fits the data set.
        if seeds is not None and not seeds:
            raise InputError('PromptedTestLoop: seeds is empty; give at least one seed, or None')
        self.protocol, self.seeds = build_protocol(prompts, runner.cfg), seeds
        check_protocol(runner, self.protocol, self.dataloader.dataset)
        self.prompts: EvaluationPrompts | None = None
        self.recorder = build_recorder(query_recorder)
        # Keep the results of a run, and its protocol and recorder, which `evaluate` may replace.
        self.results: list[dict[str, Any]] = []
        self._protocol, self._recorder = self.protocol, self.recorder
        self.merge_views = merge_views

    def run(self) -> dict[str, float]:
        """Test; returns the metrics, or their means over several seeds.

        Raises:
            InputError: there are seeds, and the protocol draws nothing.
        """
        protocols = [self.protocol] if self.seeds is None else [self.protocol.with_seed(seed) for seed in self.seeds]
        # Queries are recorded for the first draw only.
        recorders = [self.recorder] + [None] * (len(protocols) - 1)
        self.results = [self.evaluate(*pair) for pair in zip(protocols, recorders, strict=True)]
        return mean_and_std([result['metrics'] for result in self.results])[0]

    def evaluate(self, protocol: PromptProtocol, recorder: QueryRecorder | None = None) -> dict[str, Any]:
        """Run one whole test with the prompts of ``protocol``.

        Args:
            protocol: The protocol.
            recorder: Records the queries and writes them to the work directory; None: nothing is recorded.

        Returns:
            ``prompts``: the description of the prompts, ``metrics``, and ``similarity`` of the exemplars if they were
            compared.

        Raises:
            InputError: the test set is empty.
        """
        if not len(self.dataloader):
            raise InputError('the test set is empty: there is nothing to test')
        # Pass these to run_iter, which MMEngine's loop calls.
        self._protocol, self._recorder, self.prompts = protocol, recorder, None
        if recorder is not None:
            recorder.start(unwrapped(self.runner.model))
        metrics = super().run()
        if recorder is not None:
            recorder.write(Path(self.runner.work_dir), 'test', len(self.dataloader.dataset))
        prompts: Any = self.prompts
        result = dict(prompts=prompts.description, metrics=metrics)
        return result | (dict(similarity=prompts.similarity) if prompts.similarity else {})

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Detect on one batch."""
        # Compute the prompts here and not in run(): hooks such as EMA may replace the weights when the epoch starts.
        if self.prompts is None:
            self.prompts = prepare_prompts(self.runner, self._protocol, self.dataloader.dataset)
            tell_metrics(self.evaluator, self.prompts)
        evaluate_batch(self, 'test', idx, data_batch, self.prompts, self._recorder, self.merge_views)


def prepare_prompts(runner: Runner, protocol: PromptProtocol, dataset: Any) -> EvaluationPrompts:
    """Compute prompts from the current weights, with a progress bar, and write the drawn exemplars to a file.

    Raises:
        InputError: the model is sharded.
    """
    if isinstance(runner.model, FullyShardedDataParallel):
        raise InputError(
            'prompts cannot be encoded by a model that FSDP has sharded; train without validation '
            '(val_cfg=None), and test the checkpoint without FSDP'
        )
    model = unwrapped(runner.model)
    # Compute the prompts.
    count = protocol.num_images_to_encode()
    bar = ProgressBar(count) if count and is_main_process() else None
    prompts = protocol.prepare(model, dataset, bar and bar.update)
    # Log what was drawn, and record it.
    if count:
        runner.logger.info(f'Visual prompts: {len(prompts.exemplars)} exemplars on {count} images')
    if prompts.similarity:
        values = ', '.join(f'{name} {value:.4f}' for name, value in prompts.similarity.items())
        runner.logger.info(f'Similarity of the exemplars within and between classes: {values}')
    if missing := prompts.description.get('without_exemplar'):
        runner.logger.warning(f'Classes without a visual prompt, not offered and so never found: {missing}')
    if prompts.boxes:
        empty = sum(not exemplars for exemplars in prompts.boxes.values())
        runner.logger.info(
            'Visual-interactive prompts: a ground-truth box per class of each test image, the easiest protocol; '
            f'{empty} of {len(prompts.boxes)} images show no object and get no prompt'
        )
    if prompts.file_stem and is_main_process():
        write_json(prompts.record(), Path(runner.work_dir) / f'{prompts.file_stem}.json')
    return prompts


def tell_metrics(evaluator: Evaluator, prompts: EvaluationPrompts) -> None:
    """Pass the prompts to the metrics that depend on them.

    Raises:
        InputError: a metric does not work with these prompts.
    """
    for metric in evaluator.metrics:
        if isinstance(metric, PromptedMetric):
            metric.use_prompts(prompts)


def evaluate_batch(
    loop: ValLoop | TestLoop,
    split: Literal['val', 'test'],
    idx: int,
    data_batch: dict,
    prompts: EvaluationPrompts,
    recorder: QueryRecorder | None,
    merge_views: Mapping[str, Any] | None = None,
) -> None:
    """Detect on batch ``idx`` of a loop, between its hooks, and pass the detections to evaluator and recorder."""
    loop.runner.call_hook(f'before_{split}_iter', batch_idx=idx, data_batch=data_batch)
    # Detect, on all views of the images if there are several.
    predict = functools.partial(predict_batch, loop.runner, prompts=prompts)
    with autocast(enabled=loop.fp16):
        if merge_views is not None:
            samples, passes = predict_views(unwrapped(loop.runner.model), predict, data_batch, merge_views)
        else:
            samples, passes = predict(data_batch)
    # Record and evaluate the detections.
    if recorder is not None:
        recorder.process(samples, *passes[0])
    loop.evaluator.process(data_samples=samples, data_batch=data_batch)
    loop.runner.call_hook(f'after_{split}_iter', batch_idx=idx, data_batch=data_batch, outputs=samples)


def predict_batch(
    runner: Runner, data_batch: dict, prompts: EvaluationPrompts
) -> tuple[list[DetDataSample], list[tuple[DetectorOutput, list[PromptSet]]]]:
    """Detections of one batch, and the output of every pass, see ``DINOR1.predict_and_output``."""
    # Bypass the wrapper of DDP: its forward would only synchronise buffers.
    model = unwrapped(runner.model)
    data = model.data_preprocessor(data_batch, False)
    return model(**data, prompts=prompts.of(data['data_samples']), mode='predict_and_output')
