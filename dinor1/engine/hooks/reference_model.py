"""GRQO's stage switch and reference model, as a hook on the standard Runner.

DINO-R1, arXiv 2505.24025: some epochs of supervised fine-tuning, then GRQO with a frozen copy of the model as the
reference, refreshed from the current weights at the start of every epoch.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType

from dinor1.models import GRQOSettings
from dinor1.models.detectors.reference import ReferenceMixin
from dinor1.registry import HOOKS, MODELS
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint
from dinor1.utils.io import atomic_path

_KEY = 'grqo_reference'
_FILE = 'grqo_reference.pth'
_DTYPES = {None: None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@HOOKS.register_module()
class ReferenceModelHook(Hook):
    """Switches from SFT to GRQO, owns the reference model and refreshes it.

    Without this hook a run is supervised fine-tuning throughout. The reference is a deep copy outside of the model: it
    reaches neither optimizer nor DDP nor checkpoints. A checkpoint that is taken between two refreshes needs it to
    resume exactly; the hook then writes it once to ``grqo_reference.pth`` in the work directory.

    Args:
        objective: ``contrast`` (the release's), ``policy`` or ``clipped``; see :func:`dinor1.models.losses.grqo_loss`.
        alpha: Weight of the advantage.
        beta: Weight of the KL term; with 0 there is no reference model and no extra cost, but for ``clipped``.
        mute: Share of muted queries.
        warmup: Epochs (iterations) of SFT before GRQO begins.
        refresh: Epochs (iterations) between refreshes; None: the reference of the first GRQO iteration for good.
        by_epoch: Whether ``warmup`` and ``refresh`` count epochs or iterations.
        mode: ``eval`` runs the reference without dropout and with the running statistics of batch norm; ``train`` as
            the release does (dropout masks are not shared with the student).
        dtype: ``bfloat16`` or ``float16``: autocast of the reference alone; None: the precision of the training.
        groups: ``image``: the queries of an image form a group, as published; ``prompt``: those of one prompt.
        one_sided_kl: See :class:`dinor1.models.GRQOSettings`.
        allow_vanishing: Accept a reward term that is identically zero, to show that it is.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        objective: str = 'contrast',
        alpha: float = 0.01,
        beta: float = 0.04,
        mute: float = 1 / 3,
        warmup: int = 1,
        refresh: int | None = 1,
        by_epoch: bool = True,
        mode: str = 'eval',
        dtype: str | None = None,
        groups: str = 'image',
        one_sided_kl: bool = False,
        allow_vanishing: bool = False,
    ) -> None:
        if mode not in ('eval', 'train'):
            raise InputError(f"ReferenceModelHook: mode must be 'eval' or 'train', got {mode!r}")
        if dtype not in _DTYPES:
            raise InputError(
                f"ReferenceModelHook: dtype must be 'bfloat16', 'float16' or None, the training's, got {dtype!r}"
            )
        if warmup < 0 or (refresh is not None and refresh < 1):
            raise InputError(
                f'ReferenceModelHook: expected warmup >= 0 and refresh >= 1 or None, got {warmup} and {refresh}'
            )
        self.settings = GRQOSettings(
            objective=objective,
            alpha=alpha,
            beta=beta,
            mute=mute,
            groups=groups,
            one_sided_kl=one_sided_kl,
            allow_vanishing=allow_vanishing,
        )
        self.warmup, self.refresh, self.by_epoch, self.mode = warmup, refresh, by_epoch, mode
        self.dtype = _DTYPES[dtype]
        self.reference: nn.Module | None = None
        self.refreshed_at: int | None = None
        self._to_restore: dict[str, Any] | None = None

    def before_train(self, runner: Runner) -> None:
        """Refuse what GRQO cannot work with, before the first iteration."""
        model = _unwrap(runner.model)
        if not isinstance(model, ReferenceMixin):
            raise InputError(
                f'ReferenceModelHook: {type(model).__name__} gives no objectness; use DINOR1 or DINOGRQO, or '
                'remove the hook to train without GRQO'
            )
        self.settings.num_mute(model.num_queries)
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise InputError(
                'ReferenceModelHook: by_epoch=True, and a training by iterations has no epochs; set by_epoch=False and '
                'give warmup and refresh in iterations'
            )
        device = next(model.parameters()).device
        if self.dtype is torch.bfloat16 and device.type == 'cuda' and not torch.cuda.is_bf16_supported(False):
            runner.logger.warning(
                f'GRQO: {torch.cuda.get_device_name(device)} only emulates bfloat16, and the reference model will be '
                'slow; set default_hooks.grqo.dtype to float16, or to None for the precision of the training'
            )
        end, unit = (runner.max_epochs, 'epochs') if self.by_epoch else (runner.max_iters, 'iterations')
        if self.warmup >= end:
            runner.logger.warning(
                f'GRQO never begins: warmup={self.warmup}, and the training ends after {end} {unit}. All of it is '
                'supervised fine-tuning.'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Switch stage and refresh, counting epochs."""
        if self.by_epoch:
            self._update(runner, runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Switch stage and refresh, counting iterations."""
        if not self.by_epoch:
            self._update(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Leave a plain model behind."""
        model = _unwrap(runner.model)
        model.set_grqo(None)
        model.set_reference(None)
        self.reference = None

    def _update(self, runner: Runner, position: int) -> None:
        model = _unwrap(runner.model)
        if position < self.warmup:
            model.set_grqo(None)
            return
        if self._to_restore is not None:
            self._restore(runner)
        if model.bbox_head.grqo is None:
            runner.logger.info(f'GRQO begins: {self.settings}')
        model.set_grqo(self.settings)
        if self.settings.needs_reference and self._due(position):
            self._copy(runner, _full_state(runner.model))
            self.refreshed_at = position

    def _due(self, position: int) -> bool:
        if self.refreshed_at is None:
            return True
        return self.refresh is not None and position - self.refreshed_at >= self.refresh

    def _copy(self, runner: Runner, state_dict: dict) -> None:
        """Make the reference a frozen, whole model with the weights ``state_dict``."""
        model = _unwrap(runner.model)
        model.set_reference(None)  # or a copy would contain the previous reference
        if self.reference is None:
            if isinstance(runner.model, FullyShardedDataParallel):
                # A shard cannot be copied: every process builds the model anew.
                device = next(model.parameters()).device
                self.reference = MODELS.build(copy.deepcopy(runner.cfg.model)).to(device)
            else:
                self.reference = copy.deepcopy(model)
            self.reference.set_grqo(None)
        self.reference.load_state_dict(state_dict)
        self.reference.train(self.mode == 'train')
        model.set_reference(self.reference, self.dtype)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the reference, outside of the checkpoint, if a run that resumes from here would need it."""
        resumes_at = checkpoint['meta']['epoch' if self.by_epoch else 'iter']
        if self.reference is None or self._due(resumes_at):
            return
        digest = fingerprint(self.reference, whole=True)
        checkpoint[_KEY] = dict(refreshed_at=self.refreshed_at, fingerprint=digest, file=_FILE)
        if is_main_process():
            with atomic_path(Path(runner.work_dir) / _FILE) as temporary:
                torch.save(self.reference.state_dict(), temporary)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember what the checkpoint says of the reference; it is restored when its training goes on."""
        # Weights alone, load_from, begin another training, with a reference of its own.
        self._to_restore = checkpoint.get(_KEY) if runner._resume else None

    def _restore(self, runner: Runner) -> None:
        wanted, self._to_restore = self._to_restore, None
        folders = [Path(runner.work_dir)]
        if runner._load_from is not None:
            folders.append(Path(runner._load_from).parent)
        path = next((folder / wanted['file'] for folder in folders if (folder / wanted['file']).is_file()), None)
        if path is None:
            raise InputError(
                f'{folders[0] / wanted["file"]}: no such file; the checkpoint was taken between two refreshes of the '
                'reference model and cannot resume without it: put the file back, or resume from the end of an epoch'
            )
        self._copy(runner, torch.load(path, map_location='cpu', weights_only=True))
        if fingerprint(self.reference, whole=True) != wanted['fingerprint']:
            raise InputError(f'{path}: not the reference model that the checkpoint belongs to; put the right file back')
        self.refreshed_at = wanted['refreshed_at']


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _full_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights of the whole detector; those of a sharded one are gathered by every process."""
    if not isinstance(model, FullyShardedDataParallel):
        return _unwrap(model).state_dict()
    config = FullStateDictConfig(rank0_only=False)
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT, config):
        return {key.removeprefix('module.'): value for key, value in model.state_dict().items()}
