"""MMEngine's Runner with model converters."""

from typing import Any

import mmengine.runner
from mmengine.hooks import Hook
from torch import nn

from dinor1.registry import RUNNERS
from dinor1.utils.model_converters import ModelConverter, convert_model

# The default hooks of MMEngine's Runner, which removes them itself.
_MMENGINE_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


@RUNNERS.register_module(name='DINOR1Runner')
class Runner(mmengine.runner.Runner):
    """MMEngine's Runner that applies the ``model_converters`` of a config.

    Everything else, including distributed wrappers, launchers and mixed precision, is inherited.

    Attributes:
        model_converters: The converters that have been applied to the model.
    """

    model_converters: list[ModelConverter]

    def build_model(self, model: nn.Module | dict[str, Any]) -> nn.Module:
        """Build and convert the model, before it is wrapped and before the optimizer is built.

        Raises:
            InputError: a converter is unknown, or its settings do not fit the model.
        """
        built: nn.Module = super().build_model(model)
        built, self.model_converters = convert_model(built, self.cfg.get('model_converters'), self.seed)
        return built

    def register_hooks(
        self,
        default_hooks: dict[str, Hook | dict] | None = None,
        custom_hooks: list[Hook | dict] | None = None,
    ) -> None:
        """Register the hooks of the config, then those of the model converters.

        In ``default_hooks``, None removes the hook of a base config.
        """
        if default_hooks is not None:
            default_hooks = {
                name: hook for name, hook in default_hooks.items() if hook is not None or name in _MMENGINE_HOOKS
            }
        super().register_hooks(default_hooks, custom_hooks)
        for converter in self.model_converters:
            for hook in converter.hooks():
                self.register_hook(hook)
