"""Memory of earlier prompts, as a hook of the standard Runner."""

from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner

from dinor1.models import DINOR1
from dinor1.models.prompts import PromptMemory
from dinor1.registry import HOOKS
from dinor1.utils.distributed import unwrapped
from dinor1.utils.errors import InputError

_KEY = 'prompt_memory'


@HOOKS.register_module()
class PromptMemoryHook(Hook):
    """Owns the memory of earlier prompts, gives it to the model, and saves it with checkpoints.

    PET-DINO (arXiv 2604.00503). Every iteration stores the prompts of the images of all processes, so that all of them
    have the same memory, and a checkpoint of the first is complete. ``PromptMemory.length`` is the same number on one
    process and on several: with more processes, prompts stay in the memory for fewer iterations.

    Args:
        length: Number of prompts kept per class, at least 1.
        classes_per_step: Maximum number of remembered classes offered in an iteration, at least 1.

    Raises:
        InputError: a number is not positive.
    """

    # After the optimizer step, and before the hooks that save checkpoints.
    priority = 'NORMAL'

    def __init__(self, length: int = 16, classes_per_step: int = 40) -> None:
        self.memory = PromptMemory(length, classes_per_step)
        self._to_restore: dict[str, Any] | None = None

    def before_train(self, runner: Runner) -> None:
        """Give the memory to the model.

        Raises:
            InputError: the model cannot use it.
        """
        # Check the model.
        model = unwrapped(runner.model)
        if not isinstance(model, DINOR1):
            raise InputError(f'PromptMemoryHook: {type(model).__name__} takes no prompts; remove the hook')
        if model.prompt_refiner is not None:
            raise InputError(
                'PromptMemoryHook: model.prompts.refiner refines the prompts of an iteration together, and remembered '
                'ones are those of earlier iterations; remove one of the two'
            )
        # Restore the memory of a checkpoint.
        if self._to_restore is not None:
            self.memory.load_state_dict(self._to_restore, next(model.parameters()).device)
            self._to_restore = None
        model.prompt_memory = self.memory

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Store the prompts of this iteration, those of all processes in the order of the ranks."""
        pending, self.memory.pending = self.memory.pending, []
        if not runner.distributed:
            self.memory.store(pending)
            return
        # Send embeddings from the CPU, since another process cannot use a tensor on this one's device.
        device = next(runner.model.parameters()).device
        portable = [prompt._replace(embedding=prompt.embedding.cpu()) for prompt in pending]
        for prompts in all_gather_object(portable):
            self.memory.store([prompt._replace(embedding=prompt.embedding.to(device)) for prompt in prompts])

    def after_train(self, runner: Runner) -> None:
        """Remove the memory from the model."""
        unwrapped(runner.model).prompt_memory = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the memory to the checkpoint."""
        checkpoint[_KEY] = self.memory.state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember the memory of the checkpoint, if the training is resumed from it."""
        self._to_restore = checkpoint.get(_KEY) if runner._resume else None
