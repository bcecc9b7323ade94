"""What a plateau schedule needs beyond MMEngine's: an end, and an exact resume."""

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from dinor1.registry import HOOKS
from dinor1.utils.errors import InputError


@HOOKS.register_module()
class PlateauHook(Hook):
    """Ends training once the learning rate has become small, and lets a resumed run see the validation that it missed.

    A plateau schedule ends a run not after a number of epochs but when lowering the rate no longer helps. And it steps
    by validations, but MMEngine saves the checkpoint of an epoch before its validation: a run that is resumed from it
    validates first, and then goes on as the interrupted one did.

    Args:
        min_lr: Training stops after the validation at which the largest learning rate is below it. Positive.

    Raises:
        InputError: it is not.
    """

    # Behind the hook that steps the schedule.
    priority = 'VERY_LOW'

    def __init__(self, min_lr: float = 1e-6) -> None:
        if min_lr <= 0:
            raise InputError(f'PlateauHook: min_lr must be positive, got {min_lr}')
        self.min_lr = min_lr

    def before_train(self, runner: Runner) -> None:
        """Validate, if the run goes on where an epoch with a validation ended."""
        loop = runner.train_loop
        if not isinstance(loop, EpochBasedTrainLoop) or runner.val_loop is None or not 0 < loop.epoch < loop.max_epochs:
            return
        at_its_end = loop.iter == loop.epoch * len(loop.dataloader)
        if at_its_end and loop.epoch >= loop.val_begin and loop.epoch % loop.val_interval == 0:
            runner.logger.info(f'Validation of epoch {loop.epoch}, which the checkpoint does not know')
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Look at the learning rate."""
        # A validation outside of training has no optimizer.
        if not hasattr(runner.optim_wrapper, 'get_lr'):
            return
        largest = max(rate for rates in runner.optim_wrapper.get_lr().values() for rate in rates)
        if largest < self.min_lr:
            runner.logger.info(f'Learning rate {largest:.2e} is below {self.min_lr:.2e}: training ends here')
            runner.train_loop.stop_training = True
