"""Training loop by epochs that continues the count of batches after a resume within an epoch."""

from mmengine.runner import EpochBasedTrainLoop

from dinor1.registry import LOOPS


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """MMEngine's ``EpochBasedTrainLoop``, which continues the number of the batch after a resume within an epoch.

    Hooks receive this number: the log shows it, and hooks use it to detect the end of an epoch. MMEngine's loop starts
    at 0. The runner of dinor1 uses this loop for configs that name MMEngine's.
    """

    def run_epoch(self) -> None:
        """Run one epoch, or the rest of an interrupted one."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        # ReproducibilityHook has set the number of batches that were seen before the resume.
        first = getattr(self.dataloader.batch_sampler, 'num_skipped', 0)
        for index, batch in enumerate(self.dataloader, first):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
