"""MMEngine's Runner with model converters, with ranks on a CPU, and with checkpoints of sharded models."""

import inspect
from pathlib import Path
from typing import Any

import mmengine.runner
import torch
from mmengine.device import get_device
from mmengine.dist import get_backend, is_distributed, is_main_process
from mmengine.hooks import Hook
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from dinor1.models import DINOR1
from dinor1.registry import MODEL_WRAPPERS, RUNNERS
from dinor1.utils.distributed import rank_gather, unwrapped, whole_parameters
from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path
from dinor1.utils.model_converters import ModelConverter, convert_model

from .class_names import check_class_names
from .cpu_ranks import join_cpu_ranks
from .hooks.prompt_mode import PromptModeHook
from .sharded_optim_wrapper import ShardedOptimWrapper
from .training_data import check_boxes, left_out_lines

# The default hooks of MMEngine's Runner; it removes them itself if they are None.
_MMENGINE_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


@RUNNERS.register_module(name='DINOR1Runner')
class Runner(mmengine.runner.Runner):
    """MMEngine's Runner that applies the ``model_converters`` of a config.

    It differs in two more ways. Without a GPU, several processes run on the CPU. A model that FSDP shards, with
    ``model_wrapper_cfg=dict(type='MMFullyShardedDataParallel')``, is initialised, saved and loaded as a whole, so that
    its checkpoints have the format of any other model. Everything else is inherited.

    Attributes:
        model_converters: Converters that were applied to the model.
    """

    model_converters: list[ModelConverter]

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Join the process group on a CPU, which MMEngine cannot do, then set up the environment as MMEngine does."""
        if self.distributed and not is_distributed() and get_device() == 'cpu':
            join_cpu_ranks(env_cfg.get('dist_cfg', {}))
        super().setup_env(env_cfg)

    def build_model(self, model: nn.Module | dict[str, Any]) -> nn.Module:
        """Build and convert the model, before it is wrapped and before the optimizer is built.

        Raises:
            InputError: a converter is unknown, or its settings do not fit the model.
        """
        built: nn.Module = super().build_model(model)
        built, self.model_converters = convert_model(built, self.cfg.get('model_converters'), self.seed)
        if isinstance(built, DINOR1) and built.prompts_cfg.prompt_gather == 'world':
            built.rank_gather = rank_gather()
        return built

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes; on a CPU, the wrapper gets no GPU, unlike in MMEngine."""
        if self.distributed:
            wrapper = _wrapper_cfg(model_wrapper_cfg, self.cfg.get('find_unused_parameters', False))
            if issubclass(wrapper['type'], FullyShardedDataParallel):
                # Initialise the weights before the model is sharded.
                if self._train_loop is not None:
                    super()._init_model_weights()
                # FSDP does not support scalars; ShardedOptimWrapper reduces their gradients.
                wrapper.setdefault('ignored_states', [p for p in model.parameters() if p.dim() == 0])
            # Place the wrapper on the CPU.
            if get_device() == 'cpu':
                self.logger.info(f'No GPU: {self.world_size} processes on the CPU with the backend {get_backend()}')
                if issubclass(wrapper['type'], DistributedDataParallel):
                    wrapper['device_ids'] = None
                elif issubclass(wrapper['type'], FullyShardedDataParallel):
                    wrapper.setdefault('device_id', torch.device('cpu'))
            model_wrapper_cfg = wrapper
        wrapped: nn.Module = super().wrap_model(model_wrapper_cfg, model)
        return wrapped

    def _init_model_weights(self) -> None:
        if not isinstance(self.model, FullyShardedDataParallel):
            super()._init_model_weights()

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer; for a sharded model, one that clips and saves over all processes.

        Raises:
            InputError: the optimizer wrapper does not work with sharded parameters.
        """
        # A sharded model needs another wrapper.
        if isinstance(self.model, FullyShardedDataParallel) and isinstance(optim_wrapper, dict):
            kind = optim_wrapper.get('type', 'OptimWrapper')
            if kind not in ('OptimWrapper', 'ShardedOptimWrapper'):
                raise InputError(f'optim_wrapper.type={kind!r}: a model that FSDP shards needs ShardedOptimWrapper')
            optim_wrapper = dict(optim_wrapper, type='ShardedOptimWrapper')
        built = super().build_optim_wrapper(optim_wrapper)
        # That wrapper clips and saves the parameters of the model.
        if isinstance(built, ShardedOptimWrapper):
            built.model = self.model
        return built

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, as MMEngine does, also into a sharded model."""
        with whole_parameters(self.model, write=True):
            checkpoint: dict[str, Any] = super().load_checkpoint(*args, **kwargs)
        # Remove the config from the checkpoint: MMEngine's `resume` would execute it.
        checkpoint.get('meta', {}).pop('config', None)
        return checkpoint

    def resume(self, *args: Any, **kwargs: Any) -> None:
        """Resume as MMEngine does; in a copied or moved work directory, do not change files of the original one.

        Raises:
            InputError: the checkpoint was written with a schedule of another length.
        """
        planned = _schedules(self.param_schedulers)
        super().resume(*args, **kwargs)
        # MMEngine continues with the schedule of the checkpoint, and fails when that is at its end.
        for new, old in zip(planned, _schedules(self.param_schedulers), strict=True):
            steps, recorded = new.get('total_steps'), old.get('total_steps')
            if steps != recorded:
                raise InputError(
                    f'{args[0] if args else kwargs.get("filename")}: its schedule has {recorded} steps, and that of '
                    f'the config has {steps}; resume with the number of epochs that it was started with, or start a '
                    'new run from its weights by --cfg-options load_from=FILE'
                )
        # Point to the best checkpoint in this work directory: CheckpointHook deletes it when there is a better one.
        folders = {Path(self.work_dir).resolve()}
        folders |= {Path(hook.out_dir).resolve() for hook in self.hooks if getattr(hook, 'out_dir', None)}
        for key, path in list(self.message_hub.runtime_info.items()):
            if key.startswith('best_ckpt') and path and Path(path).resolve().parent not in folders:
                own = Path(self.work_dir) / Path(path).name
                self.message_hub.update_info(key, str(own) if own.is_file() else None)

    def save_checkpoint(
        self, out_dir: str, filename: str, file_client_args: dict | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Save a checkpoint, as MMEngine does, also of a sharded model; all processes must call it.

        A file of this machine is written completely or not at all: a run that is killed, or a disk that is full, leaves
        the earlier checkpoints as they are.
        """
        # All processes take part in collecting the state of the optimizer.
        if isinstance(self.optim_wrapper, ShardedOptimWrapper):
            self.optim_wrapper.gather_state()
        remote = file_client_args is not None or kwargs.get('backend_args') is not None or '://' in str(out_dir)
        with whole_parameters(self.model):
            if remote or not is_main_process():
                super().save_checkpoint(out_dir, filename, file_client_args, *args, **kwargs)
                return
            # A local file is written completely or not at all.
            with atomic_path(Path(out_dir) / filename) as temporary:
                super().save_checkpoint(out_dir, temporary.name, None, *args, **kwargs)

    def build_train_loop(self, loop: Any) -> Any:
        """Build the training loop with its data, and check that there are boxes and that class names can be read.

        Raises:
            InputError: there is no box to train on, or the language model cannot read a class name.
        """
        if isinstance(loop, dict) and (loop.get('type') == 'EpochBasedTrainLoop' or _by_epoch(loop)):
            loop = {key: value for key, value in loop.items() if key != 'by_epoch'} | dict(type='ResumableTrainLoop')
        built = super().build_train_loop(loop)
        # Check the boxes.
        dataset = built.dataloader.dataset
        check_boxes(dataset)
        for line in left_out_lines(dataset):
            self.logger.warning(line)
        # Check the class names if they are text prompts.
        model = unwrapped(self.model)
        if getattr(model, 'alignment', None) is not None or self._has_text_iterations():
            check_class_names(model, dataset)
        return built

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict[str, Any], seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a data loader as MMEngine does; without worker processes, leave out the settings of workers.

        ``num_workers=0`` alone is enough to load in the main process. The settings ``persistent_workers`` and
        ``prefetch_factor`` of base configs are removed, because torch raises an error for them in this case.
        """
        if isinstance(dataloader, dict) and not dataloader.get('num_workers', 0):
            unused = ('persistent_workers', 'prefetch_factor')
            dataloader = {key: value for key, value in dataloader.items() if key not in unused}
        built: DataLoader = mmengine.runner.Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        return built

    def register_hooks(
        self,
        default_hooks: dict[str, Hook | dict] | None = None,
        custom_hooks: list[Hook | dict] | None = None,
    ) -> None:
        """Register the hooks of the config, those of the model converters, and that of iterations with class names.

        In ``default_hooks``, None removes the hook of a base config.
        """
        # Remove the default hooks that are None.
        if default_hooks is not None:
            default_hooks = {
                name: hook for name, hook in default_hooks.items() if hook is not None or name in _MMENGINE_HOOKS
            }
        super().register_hooks(default_hooks, custom_hooks)
        for converter in self.model_converters:
            for hook in converter.hooks():
                self.register_hook(hook)
        if self._has_text_iterations():
            self.register_hook(PromptModeHook())

    def _has_text_iterations(self) -> bool:
        """Whether class names prompt some of the training iterations."""
        model = unwrapped(self.model)
        return isinstance(model, DINOR1) and model.prompts_cfg.prompt_mode_schedule != 'visual'


def _by_epoch(loop: dict[str, Any]) -> bool:
    """Whether a training loop without a type is one by epochs; MMEngine reads ``by_epoch`` then."""
    return loop.get('type') is None and bool(loop.get('by_epoch', False))


def _schedules(schedulers: Any) -> list[dict[str, Any]]:
    """State of every parameter scheduler of a run; MMEngine has a list, or a dict of lists."""
    groups = list(schedulers.values()) if isinstance(schedulers, dict) else [schedulers or []]
    return [scheduler.state_dict() for group in groups for scheduler in group if hasattr(scheduler, 'state_dict')]


def _wrapper_cfg(model_wrapper_cfg: dict[str, Any] | None, find_unused_parameters: bool) -> dict[str, Any]:
    """``model_wrapper_cfg``, or MMEngine's default, with a class as its ``type``."""
    if model_wrapper_cfg is None:
        model_wrapper_cfg = dict(broadcast_buffers=False, find_unused_parameters=find_unused_parameters)
    kind = model_wrapper_cfg.get('type', 'MMDistributedDataParallel')
    return dict(model_wrapper_cfg, type=kind if inspect.isclass(kind) else MODEL_WRAPPERS.get(kind))
