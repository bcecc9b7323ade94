"""The same buffers in all processes during a validation."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from dinor1.registry import HOOKS
from dinor1.utils.distributed import broadcast_buffers


@HOOKS.register_module()
class BroadcastBuffersHook(Hook):
    """Copies the buffers of the first process to all processes before a validation.

    Each process computes the statistics of batch norm from its own images, and checkpoints hold those of the first
    process. With this hook the model of the checkpoint evaluates every image. MMEngine's ``SyncBuffersHook`` averages
    the buffers instead; then a run that is resumed within an epoch differs from one that was never interrupted.
    """

    priority = 'LOW'  # after hooks that replace the weights for the validation, such as EMA

    def before_val_epoch(self, runner: Runner) -> None:
        """Broadcast the buffers."""
        broadcast_buffers(runner.model)
