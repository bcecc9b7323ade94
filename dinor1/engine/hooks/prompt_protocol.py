"""Gives every validation and test image its prompts, by the protocol that the config names."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.dataset import BaseDataset
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmengine.utils import ProgressBar

from dinor1.evaluation import Exemplar, build_bank, draw_exemplars, draw_interactive
from dinor1.registry import DATASETS, HOOKS
from dinor1.structures import PromptSet
from dinor1.utils.errors import InputError
from dinor1.utils.io import write_json

PROTOCOLS = ('text', 'visual-generic', 'visual-interactive')


@HOOKS.register_module()
class PromptProtocolHook(Hook):
    """Prompts for validation and test.

    The visual protocols write their draw to ``prompts_<protocol>_[n<N>_]seed<seed>.json`` in the work directory.

    Args:
        protocol: ``text``: the names of the evaluated set's classes. ``visual-generic``: per class the mean embedding
            of ``num_exemplars`` instances of ``prompt_dataset``; every class of the evaluated set is offered, but for
            those without an instance, which are listed in the log and never found. ``visual-interactive``: one
            ground-truth box per class of the test image; classes that it does not show are not offered, which makes
            this the easiest protocol.
        prompt_dataset: Config of the data set that visual-generic draws from.
        num_exemplars: N of visual-generic.
        seed: Seed of the draw.
    """

    priority = 'HIGH'

    def __init__(
        self,
        protocol: str = 'visual-generic',
        prompt_dataset: dict | None = None,
        num_exemplars: int = 16,
        seed: int = 0,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise InputError(f'PromptProtocolHook: protocol must be one of {", ".join(PROTOCOLS)}; got {protocol!r}')
        if protocol == 'visual-generic' and prompt_dataset is None:
            raise InputError('PromptProtocolHook: visual-generic needs prompt_dataset, the images to take prompts from')
        self.protocol, self.num_exemplars = protocol, num_exemplars
        self._dataset_cfg = prompt_dataset
        self.dataset: BaseDataset | None = None
        self.set_seed(seed)

    def set_seed(self, seed: int) -> None:
        """Draw with another seed from now on."""
        self.seed = seed
        self.exemplars: list[Exemplar] = []
        self.without_exemplar: list[str] = []
        self._prompts: PromptSet | None = None
        # visual-interactive: per evaluated set, because validation and test may be two.
        self._interactive: dict[str, dict[int, list[Exemplar]]] = {}

    def describe(self) -> dict[str, Any]:
        """What identifies a result: the protocol and its settings."""
        if self.protocol == 'text':
            return dict(protocol=self.protocol)
        if self.protocol == 'visual-interactive':
            note = 'prompts come from the test image, absent classes are not offered: easier than visual-generic'
            return dict(protocol=self.protocol, seed=self.seed, note=note)
        settings = dict(protocol=self.protocol, num_exemplars=self.num_exemplars, seed=self.seed)
        return dict(settings, without_exemplar=self.without_exemplar) if self.without_exemplar else settings

    def before_val_epoch(self, runner: Runner) -> None:
        """Make the prompts from the current weights."""
        self._prepare(runner, runner.val_dataloader.dataset)

    def before_test_epoch(self, runner: Runner) -> None:
        """Make the prompts from the loaded weights."""
        self._prepare(runner, runner.test_dataloader.dataset)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Hand the prompts to the images of the batch."""
        self._attach(data_batch['data_samples'], runner.val_dataloader.dataset)

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Hand the prompts to the images of the batch."""
        self._attach(data_batch['data_samples'], runner.test_dataloader.dataset)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Forget prompts whose weights are about to change."""
        self._prompts = None

    def _prepare(self, runner: Runner, dataset: BaseDataset) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        names = dataset.metainfo['classes']
        if self.protocol == 'text':
            self._prompts = model.text_prompt_set(list(names))
        elif self.protocol == 'visual-interactive':
            self._draw_interactive(runner, dataset)
        else:
            self._prompts = self._visual_generic(runner, model, names)

    def _visual_generic(self, runner: Runner, model: torch.nn.Module, names: tuple[str, ...]) -> PromptSet:
        if self.dataset is None:
            self.dataset = DATASETS.build(self._dataset_cfg)
        if not self.exemplars:
            self.exemplars = draw_exemplars(self.dataset, self.num_exemplars, self.seed)
            known = self.dataset.metainfo['classes']
            drawn = {known[e.label] for e in self.exemplars}
            self.without_exemplar = [name for name in names if name not in drawn]
            if self.without_exemplar:
                runner.logger.warning(
                    f'Classes without a visual prompt, not offered and so never found: {self.without_exemplar}'
                )
            self._write(runner, self.dataset, self.exemplars, f'_n{self.num_exemplars}')
        shown = len({e.index for e in self.exemplars})
        runner.logger.info(f'Visual prompts: {len(self.exemplars)} exemplars on {shown} images')
        bar = ProgressBar(shown) if is_main_process() else None
        bank = build_bank(model, self.dataset, self.exemplars, progress=bar and bar.update)
        return bank.prompt_set(names)

    def _draw_interactive(self, runner: Runner, dataset: BaseDataset) -> None:
        if str(dataset.ann_file) in self._interactive:
            return
        drawn = draw_interactive(dataset, self.seed)
        self._interactive[str(dataset.ann_file)] = drawn
        empty = sum(not exemplars for exemplars in drawn.values())
        runner.logger.info(
            'Visual-interactive prompts: a ground-truth box per class of each test image, the easiest protocol; '
            f'{empty} of {len(drawn)} images show nothing and are asked for nothing'
        )
        self._write(runner, dataset, (e for exemplars in drawn.values() for e in exemplars))

    def _attach(self, samples: list[DetDataSample], dataset: BaseDataset) -> None:
        for sample in samples:
            if self.protocol != 'visual-interactive':
                sample.set_field(self._prompts, 'prompts')
                continue
            exemplars = self._interactive[str(dataset.ann_file)][sample.img_id]
            boxes = torch.tensor([e.bbox for e in exemplars], dtype=torch.float32).reshape(-1, 4)
            # Exemplars are in pixels of the original image, prompts in those of the network input.
            boxes = boxes * boxes.new_tensor(sample.scale_factor).repeat(2)
            labels = torch.tensor([e.label for e in exemplars], dtype=torch.long)
            sample.set_field(InstanceData(bboxes=boxes, labels=labels), 'prompt_instances', dtype=InstanceData)
            sample.set_field(list(dataset.metainfo['classes']), 'prompt_names')

    def _write(self, runner: Runner, dataset: BaseDataset, exemplars: Iterable[Exemplar], infix: str = '') -> None:
        """Write the draw: with the annotation file it reproduces the prompts."""
        if is_main_process():
            names = dataset.metainfo['classes']
            record = dict(
                self.describe(),
                ann_file=str(dataset.ann_file),
                exemplars=[dict(img_id=e.img_id, bbox=e.bbox, name=names[e.label]) for e in exemplars],
            )
            write_json(record, Path(runner.work_dir) / f'prompts_{self.protocol}{infix}_seed{self.seed}.json')
