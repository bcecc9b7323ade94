"""Warm-up and reference model of GRQO, as a hook of the standard Runner.

DINO-R1, arXiv 2505.24025: some epochs of supervised fine-tuning (SFT), then GRQO with a frozen copy of the model as the
reference, which is refreshed from the current weights at the start of every epoch.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel

from dinor1.models import DINOR1, ReferenceModel
from dinor1.registry import HOOKS, MODELS
from dinor1.utils.distributed import broadcast_buffers, unwrapped
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint
from dinor1.utils.io import atomic_path
from dinor1.utils.model_converters import convert_model

_KEY = 'grqo_reference'
_FILE = 'grqo_reference.pth'
_DTYPES = {None: None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@HOOKS.register_module()
class ReferenceModelHook(Hook):
    """Enables GRQO after a warm-up, owns the reference model and refreshes it.

    The loss and its constants belong to the head: ``model.bbox_head.loss_grqo=dict(type='GRQOLoss', ...)``. It is
    disabled during the warm-up, which is supervised fine-tuning. The reference is a deep copy outside of the model: it
    is not part of the optimizer, DDP or checkpoints. A checkpoint taken between two refreshes needs the reference to
    resume exactly; the hook then writes it to ``grqo_reference.pth`` in the work directory and replaces an older file.

    Args:
        warmup: Number of epochs (iterations) of SFT before GRQO begins, >= 0.
        refresh: Number of epochs (iterations) between refreshes, >= 1; None: the reference of the first GRQO iteration
            is kept.
        by_epoch: Whether ``warmup`` and ``refresh`` count epochs or iterations.
        mode: ``eval`` runs the reference without dropout and with the running statistics of batch norm; ``train`` runs
            it like the authors' code (the reference and the trained model draw different dropout masks).
        dtype: ``bfloat16`` or ``float16``: autocast dtype of the reference alone; None: the precision of the training.
        reference_draw: ``shared``: student and reference are prompted by the same exemplars. ``own``: the reference
            draws exemplars of its own for the same classes, as in the authors' code, so that the KL compares the
            objectness under different exemplars. Iterations prompted by text have no exemplars.

    Attributes:
        reference: The reference model; None before GRQO begins and after the training.
        refreshed_at: Epoch (iteration) of the latest refresh.

    Raises:
        InputError: a setting is out of range.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        warmup: int = 1,
        refresh: int | None = 1,
        by_epoch: bool = True,
        mode: str = 'eval',
        dtype: str | None = None,
        reference_draw: str = 'shared',
    ) -> None:
        # Check the arguments.
        if mode not in ('eval', 'train'):
            raise InputError(f"ReferenceModelHook: mode must be 'eval' or 'train', got {mode!r}")
        if dtype not in _DTYPES:
            raise InputError(
                f"ReferenceModelHook: dtype must be 'bfloat16', 'float16' or None, the training's, got {dtype!r}"
            )
        if reference_draw not in ('shared', 'own'):
            raise InputError(f"ReferenceModelHook: reference_draw must be 'shared' or 'own', got {reference_draw!r}")
        if warmup < 0 or (refresh is not None and refresh < 1):
            raise InputError(
                f'ReferenceModelHook: expected warmup >= 0 and refresh >= 1 or None, got {warmup} and {refresh}'
            )
        self.warmup, self.refresh, self.by_epoch, self.mode = warmup, refresh, by_epoch, mode
        self.dtype, self.own_draw = _DTYPES[dtype], reference_draw == 'own'
        # Keep the reference, and what a checkpoint restores.
        self.reference: ReferenceModel | None = None
        self._began = False
        self.refreshed_at: int | None = None
        self._to_restore: dict[str, Any] | None = None

    def before_train(self, runner: Runner) -> None:
        """Check model, loop and settings before the first iteration.

        Raises:
            InputError: GRQO does not work with this model, loop or setting.
        """
        # Check the model and its loss.
        model = unwrapped(runner.model)
        loss = getattr(getattr(model, 'bbox_head', None), 'loss_grqo', None)
        if not hasattr(model, 'objectness') or loss is None:
            raise InputError(
                f'ReferenceModelHook: {type(model).__name__} has no GRQO; use DINOR1 or DINOGRQO with '
                "bbox_head.loss_grqo=dict(type='GRQOLoss'), or remove the hook to train without GRQO"
            )
        loss.num_mute(model.num_queries)
        if self.own_draw and not isinstance(model, DINOR1):
            raise InputError(
                f"ReferenceModelHook: reference_draw='own' draws exemplars, and {type(model).__name__} has no prompts; "
                "set reference_draw='shared'"
            )
        if self.own_draw and model.prompts_cfg.prompt_gather == 'world':
            raise InputError(
                "ReferenceModelHook: reference_draw='own' draws from the boxes of one process, and "
                "model.prompts.prompt_gather='world' averages those of all; set one of them to its default"
            )
        # Check the unit of the settings.
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise InputError(
                'ReferenceModelHook: by_epoch=True, but a training by iterations has no epochs; set by_epoch=False and '
                'give warmup and refresh in iterations'
            )
        # Warn about a slow or useless setting.
        device = next(model.parameters()).device
        if self.dtype is torch.bfloat16 and device.type == 'cuda' and not torch.cuda.is_bf16_supported(False):
            runner.logger.warning(
                f'GRQO: {torch.cuda.get_device_name(device)} only emulates bfloat16, and the reference model will be '
                'slow; set default_hooks.reference.dtype to float16, or to None for the precision of the training'
            )
        end, unit = (runner.max_epochs, 'epochs') if self.by_epoch else (runner.max_iters, 'iterations')
        if self.warmup >= end:
            runner.logger.warning(
                f'GRQO never begins: warmup={self.warmup}, and the training ends after {end} {unit}. All of it is '
                'supervised fine-tuning.'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Enable the loss and refresh the reference, counting epochs."""
        if self.by_epoch:
            self._update(runner, runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Enable the loss and refresh the reference, counting iterations."""
        if not self.by_epoch:
            self._update(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Remove the reference from the model, and enable the loss again."""
        model = unwrapped(runner.model)
        model.bbox_head.loss_grqo.enabled = True
        model.reference = self.reference = None

    def _update(self, runner: Runner, position: int) -> None:
        """Update loss and reference at an epoch (iteration)."""
        # Disable the loss during the warm-up.
        model = unwrapped(runner.model)
        loss = model.bbox_head.loss_grqo
        loss.enabled = position >= self.warmup
        if not loss.enabled:
            return
        # Restore the reference of a checkpoint, or refresh it.
        if self._to_restore is not None:
            wanted, self._to_restore = self._to_restore, None
            self._restore(runner, wanted)
        if not self._began:
            runner.logger.info(f'GRQO begins: {loss}')
            self._began = True
        if loss.needs_reference and self._due(position):
            self._copy(runner, _full_state(runner.model))
            self.refreshed_at = position

    def _due(self, position: int) -> bool:
        """Whether a refresh is due at an epoch (iteration)."""
        if self.refreshed_at is None:
            return True
        return self.refresh is not None and position - self.refreshed_at >= self.refresh

    def _copy(self, runner: Runner, state_dict: dict) -> ReferenceModel:
        """Load the weights ``state_dict`` into the reference, which is built on the first call, and return it."""
        model = unwrapped(runner.model)
        model.reference = None  # otherwise a copy would contain the previous reference
        # Build the reference on the first call.
        if self.reference is None:
            if isinstance(runner.model, FullyShardedDataParallel):
                # Build a sharded model again in every process, because it cannot be copied.
                device = next(model.parameters()).device
                copied = MODELS.build(copy.deepcopy(runner.cfg.model))
                copied, _ = convert_model(copied, runner.cfg.get('model_converters'), runner.seed)
                rebuilt: Any = copied.to(device)
                rebuilt.rank_gather = getattr(model, 'rank_gather', None)
                copied = rebuilt
            else:
                copied = copy.deepcopy(model)
            self.reference = ReferenceModel(copied, self.dtype, self.own_draw)
        # Load the weights. All processes use the buffers of the first one, as a resumed run does.
        self.reference.model.load_state_dict(state_dict)
        broadcast_buffers(self.reference.model)
        self.reference.model.train(self.mode == 'train')
        model.reference = self.reference
        return self.reference

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the reference to a file beside the checkpoint if a resumed run would need it."""
        # A resumed run makes a new reference if one is due.
        resumes_at = checkpoint['meta']['epoch' if self.by_epoch else 'iter']
        if self.reference is None or self._due(resumes_at):
            return
        # Record which reference belongs to the checkpoint, and write it.
        digest = fingerprint(self.reference.model, whole=True)
        checkpoint[_KEY] = dict(refreshed_at=self.refreshed_at, fingerprint=digest, file=_FILE)
        if is_main_process():
            with atomic_path(Path(runner.work_dir) / _FILE) as temporary:
                torch.save(self.reference.model.state_dict(), temporary)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember the reference of the checkpoint; it is restored when the training continues."""
        # With load_from, a new training starts from the weights and makes its own reference.
        self._to_restore = checkpoint.get(_KEY) if runner._resume else None

    def _restore(self, runner: Runner, wanted: dict[str, Any]) -> None:
        """Restore the reference that a checkpoint describes as ``wanted``.

        Raises:
            InputError: the file is missing, or contains another reference.
        """
        # Find the file in the work directory, or beside the checkpoint.
        folders = [Path(runner.work_dir)]
        if runner._load_from is not None:
            folders.append(Path(runner._load_from).parent)
        path = next((folder / wanted['file'] for folder in folders if (folder / wanted['file']).is_file()), None)
        if path is None:
            raise InputError(
                f'{folders[0] / wanted["file"]}: no such file; the checkpoint was taken between two refreshes of the '
                'reference model and cannot resume without it: put the file back, or resume from the end of an epoch'
            )
        # Load it, and compare it with the checkpoint.
        reference = self._copy(runner, torch.load(path, map_location='cpu', weights_only=True))
        if fingerprint(reference.model, whole=True) != wanted['fingerprint']:
            raise InputError(f'{path}: not the reference model that the checkpoint belongs to; put the right file back')
        self.refreshed_at = wanted['refreshed_at']


def _full_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of the whole detector; every process gathers them if the model is sharded."""
    if not isinstance(model, FullyShardedDataParallel):
        return unwrapped(model).state_dict()
    weights: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return weights
