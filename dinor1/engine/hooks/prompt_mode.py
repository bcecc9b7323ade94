"""Boxes or class names as prompts, chosen per training iteration."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from dinor1.models.prompts import prompt_mode
from dinor1.registry import HOOKS
from dinor1.utils.distributed import unwrapped


@HOOKS.register_module()
class PromptModeHook(Hook):
    """Sets the kind of prompts of each training iteration according to ``model.prompts.prompt_mode_schedule``.

    The Runner registers this hook if the schedule has iterations with class names. The kind of prompts depends only on
    the seed of the run and the iteration: it is the same on all ranks, and after a resume.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the mode of this iteration."""
        model = unwrapped(runner.model)
        # MMEngine gives the processes the same seed, unless diff_rank_seed adds the rank.
        model.prompt_mode = prompt_mode(model.prompts_cfg.prompt_mode_schedule, _common_seed(runner), runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Set boxes as prompts."""
        unwrapped(runner.model).prompt_mode = 'visual'


def _common_seed(runner: Runner) -> int:
    """The seed that all ranks share."""
    randomness = runner._randomness_cfg
    different = randomness.get('diff_rank_seed', False)
    return int(runner.seed) - (runner.rank if different else 0)
