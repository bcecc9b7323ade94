"""One set of buffers for all processes where they matter: in validation."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from dinor1.registry import HOOKS
from dinor1.utils.distributed import broadcast_buffers


@HOOKS.register_module()
class BroadcastBuffersHook(Hook):
    """Gives all processes the buffers of the first before a validation.

    The statistics of batch norm are those of a process's own images. Checkpoints hold those of the first process, and
    with this hook every image is evaluated by the model of the checkpoint. MMEngine's ``SyncBuffersHook`` averages them
    instead; then a run that is resumed within an epoch differs from one that was never interrupted.
    """

    priority = 'LOW'  # after hooks that replace the weights for the validation, such as EMA

    def before_val_epoch(self, runner: Runner) -> None:
        """Broadcast the buffers."""
        broadcast_buffers(runner.model)
