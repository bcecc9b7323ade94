"""Gives every validation and test image its prompts, by the protocol that the config names."""

from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.utils import ProgressBar

from dinor1.errors import InputError
from dinor1.evaluation import Exemplar, build_bank, draw_exemplars
from dinor1.fileio import write_json
from dinor1.registry import DATASETS, HOOKS
from dinor1.structures import PromptSet

PROTOCOLS = ('visual-generic', 'text')


@HOOKS.register_module()
class PromptProtocolHook(Hook):
    """Prompts for validation and test.

    Args:
        protocol: ``visual-generic``: per class the mean embedding of ``num_exemplars`` instances of
            ``prompt_dataset``; every class of the evaluated set is offered. ``text``: its class names.
        prompt_dataset: Config of the data set that visual prompts are drawn from.
        num_exemplars: N of visual-generic.
        seed: Seed of the draw. The draw is written to ``prompts_<protocol>_n<N>_seed<seed>.json`` in the work
            directory.
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
        self.protocol, self.num_exemplars, self.seed = protocol, num_exemplars, seed
        self._dataset_cfg = prompt_dataset
        self.dataset: BaseDataset | None = None
        self.exemplars: list[Exemplar] = []
        self._prompts: PromptSet | None = None

    def before_val_epoch(self, runner: Runner) -> None:
        """Make the prompts from the current weights."""
        self._prepare(runner, runner.val_dataloader.dataset)

    def before_test_epoch(self, runner: Runner) -> None:
        """Make the prompts from the loaded weights."""
        self._prepare(runner, runner.test_dataloader.dataset)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Hand the prompts to the images of the batch."""
        for sample in data_batch['data_samples']:
            sample.set_field(self._prompts, 'prompts')

    before_test_iter = before_val_iter

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Forget prompts whose weights are about to change."""
        self._prompts = None

    def _prepare(self, runner: Runner, dataset: BaseDataset) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        names = dataset.metainfo['classes']
        if self.protocol == 'text':
            self._prompts = model.text_prompt_set(list(names))
            return
        if self.dataset is None:
            self.dataset = DATASETS.build(self._dataset_cfg)
            self.exemplars = draw_exemplars(self.dataset, self.num_exemplars, self.seed)
            self._record(runner, names)
        shown = len({e.index for e in self.exemplars})
        runner.logger.info(f'Visual prompts: {len(self.exemplars)} exemplars on {shown} images')
        bar = ProgressBar(shown) if is_main_process() else None
        bank = build_bank(model, self.dataset, self.exemplars, progress=bar and bar.update)
        self._prompts = bank.prompt_set(names)

    def _record(self, runner: Runner, names: tuple[str, ...]) -> None:
        """Write the draw, and say which classes of the evaluated set have no exemplar and so are not offered."""
        known = self.dataset.metainfo['classes']
        drawn = {known[e.label] for e in self.exemplars}
        missing = [name for name in names if name not in drawn]
        if missing:
            runner.logger.warning(f'Classes without a visual prompt, not offered and so never found: {missing}')
        if is_main_process():
            name = f'prompts_{self.protocol}_n{self.num_exemplars}_seed{self.seed}.json'
            record = dict(
                protocol=self.protocol,
                num_exemplars=self.num_exemplars,
                seed=self.seed,
                ann_file=str(self.dataset.ann_file),
                without_exemplar=missing,
                exemplars=[dict(img_id=e.img_id, bbox=e.bbox, name=known[e.label]) for e in self.exemplars],
            )
            write_json(record, Path(runner.work_dir) / name)
