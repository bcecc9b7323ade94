"""Optimizer constructor for weight decay of norms: MMEngine's own one only supports torch's norms."""

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
    affect a norm's bias, and ``bias_decay_mult`` and ``flat_decay_mult`` apply if ``norm_decay_mult`` is not set.

    Without it, a custom key has the same effect if all norms have a common part in their names, as in DINO-R1 and Swin:
    ``custom_keys={'norm': dict(decay_mult=0.0)}``. Only the longest key that is part of a parameter's name applies:
    repeat the multipliers of a shorter one, as in ``{'backbone': dict(lr_mult=0.1), 'backbone.norm': ...}``.
    """

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: int | float | None = None
    ) -> None:
        """Add the parameters of ``module`` and its children to ``params``, one group each."""
        start = len(params)
        super().add_params(params, module, prefix, is_dcn_module)
        if not isinstance(module, tuple(NORMS.values())):
            return
        # Set the decay of the norm's parameters, unless a custom key applies.
        names = {id(parameter): f'{prefix}.{name}' for name, parameter in module.named_parameters(recurse=False)}
        decay_mult = self.paramwise_cfg.get('norm_decay_mult')
        for group in params[start:]:
            name = names[id(group['params'][0])]
            if any(key in name for key in self.paramwise_cfg.get('custom_keys', {})):
                continue
            group.pop('lr', None)
            if decay_mult is not None:
                group['weight_decay'] = self.base_wd * decay_mult
