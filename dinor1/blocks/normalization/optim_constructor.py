"""Weight decay of norms: MMEngine's own constructor knows torch's norms only."""

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from .registry import NORMS


class NormAwareOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, with ``norm_decay_mult`` for the norms of :mod:`dinor1.blocks.normalization` too.

    Example::

        optim_wrapper = dict(
            constructor='NormAwareOptimWrapperConstructor',
            paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={'backbone': dict(lr_mult=0.1)}),
        )

    As for torch's norms, a custom key that matches a parameter overrides everything else, ``bias_lr_mult`` does not
    touch a norm's bias, and ``bias_decay_mult`` and ``flat_decay_mult`` act where ``norm_decay_mult`` is not given.

    Without it, a custom key does the same where all norms have a common part in their names, as in our detector and in
    Swin: ``custom_keys={'norm': dict(decay_mult=0.0)}``. The longest key that is part of a parameter's name wins, and
    alone: repeat the multipliers of a shorter one, as in ``{'backbone': dict(lr_mult=0.1), 'backbone.norm': ...}``.
    """

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: int | float | None = None
    ) -> None:
        """Add the parameters of ``module`` and its children to ``params``, one group each."""
        start = len(params)
        super().add_params(params, module, prefix, is_dcn_module)
        if not isinstance(module, tuple(NORMS.values())):
            return
        names = {id(parameter): f'{prefix}.{name}' for name, parameter in module.named_parameters(recurse=False)}
        decay_mult = self.paramwise_cfg.get('norm_decay_mult')
        for group in params[start:]:
            name = names[id(group['params'][0])]
            if any(key in name for key in self.paramwise_cfg.get('custom_keys', {})):
                continue
            group.pop('lr', None)
            if decay_mult is not None:
                group['weight_decay'] = self.base_wd * decay_mult
