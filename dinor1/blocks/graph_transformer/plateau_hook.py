"""Hook that adds an end of training and an exact resume to MMEngine's plateau schedule."""

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from dinor1.registry import HOOKS
from dinor1.utils.errors import InputError


@HOOKS.register_module()
class PlateauHook(Hook):
    """Ends training once the learning rate is small, and repeats the validation that a resumed run has missed.

    A plateau schedule ends a run when lowering the learning rate no longer helps, not after a number of epochs. It
    steps after each validation, but MMEngine saves the checkpoint of an epoch before its validation. A resumed run
    therefore validates first, and then continues as the interrupted run did.

    Args:
        min_lr: Training stops after the first validation with the largest learning rate below this value. Positive.

    Raises:
        InputError: ``min_lr`` is not positive.
    """

    # Runs after the hook that steps the schedule.
    priority = 'VERY_LOW'

    def __init__(self, min_lr: float = 1e-6) -> None:
        if min_lr <= 0:
            raise InputError(f'PlateauHook: min_lr must be positive, got {min_lr}')
        self.min_lr = min_lr

    def before_train(self, runner: Runner) -> None:
        """Validate if the run resumes at the end of an epoch that ends with a validation."""
        loop = runner.train_loop
        if not isinstance(loop, EpochBasedTrainLoop) or runner.val_loop is None or not 0 < loop.epoch < loop.max_epochs:
            return
        at_its_end = loop.iter == loop.epoch * len(loop.dataloader)
        if at_its_end and loop.epoch >= loop.val_begin and loop.epoch % loop.val_interval == 0:
            runner.logger.info(f'Validation of epoch {loop.epoch}, which is missing in the checkpoint')
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Stop training if the learning rate is below ``min_lr``."""
        # A validation outside of training has no optimizer.
        if not hasattr(runner.optim_wrapper, 'get_lr'):
            return
        largest = max(rate for rates in runner.optim_wrapper.get_lr().values() for rate in rates)
        if largest < self.min_lr:
            runner.logger.info(f'Learning rate {largest:.2e} is below {self.min_lr:.2e}: training ends here')
            runner.train_loop.stop_training = True
