"""Keys, types and arguments of earlier versions, and their replacements."""

import warnings
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from dinor1.utils.errors import InputError

_CONVERTER = "model_converters=[dict(type='IntegerTraining', ...)]"
_GRQO = (
    "model.bbox_head.loss_grqo=dict(type='GRQOLoss', ...) for the loss and "
    "default_hooks.reference=dict(type='ReferenceModelHook', ...) for its reference model"
)
_PROMPTS = (
    "val_cfg=dict(type='PromptedValLoop', prompts=dict(type='VisualGeneric', ...)) and "
    "test_cfg=dict(type='PromptedTestLoop', prompts=...)"
)
# Key of earlier versions -> replacement.
_REMOVED_KEYS = {
    'quantization': _CONVERTER,
    'default_hooks.grqo': _GRQO,
    'default_hooks.prompts': _PROMPTS,
}
# Key of DINOR1 in earlier versions -> new key.
_MOVED_MODEL_KEYS = {
    **{
        name: f'model.transformer.{name}'
        for name in (
            'embed_dims',
            'num_heads',
            'feedforward_channels',
            'num_points',
            'num_feature_levels',
            'norm_cfg',
        )
    },
    **{name: f'model.prompts.{name}' for name in ('language_model', 'alignment', 'text_prompts')},
    'prompt_refiner': 'model.prompts.refiner',
}
# Hook of earlier versions -> replacement.
_REMOVED_HOOKS = {
    'IntegerTrainingHook': _CONVERTER,
    'LayerNormRemovalHook': "model_converters=[dict(type='LayerNormRemoval', ...)]",
    'PromptProtocolHook': _PROMPTS,
    'QueryRecorderHook': 'test_cfg.query_recorder=dict(...)',
}
# Prefix of an override for earlier versions -> new key of the same setting; longer prefixes come first.
_REFERENCE = ('warmup', 'refresh', 'by_epoch', 'mode', 'dtype')
_MOVED_SETTINGS = {
    'quantization.': 'model_converters.0.{}',
    **{f'default_hooks.grqo.{name}': f'default_hooks.reference.{name}' for name in _REFERENCE},
    'default_hooks.grqo.': 'model.bbox_head.loss_grqo.{}',
    'default_hooks.prompts.protocol': 'test_cfg.prompts.type, and val_cfg.prompts.type for validation',
    'default_hooks.prompts.prompt_dataset': 'prompt_dataset{}',
    'default_hooks.prompts.': 'test_cfg.prompts.{0}, and val_cfg.prompts.{0} for validation',
}
# Variable of our base configs -> key that gets its value when the file is read; overrides must name this key.
_SUBSTITUTED = {
    'loss_grqo.': 'model.bbox_head.loss_grqo.{}',
    'prompts.': 'test_cfg.prompts.{0}, and val_cfg.prompts.{0} for validation',
    'prompt_refiner.': 'model.prompts.refiner.{}',
    'shapes_checkpoint': 'load_from',
}
# Argument of the group-convolution networks in earlier versions -> new key.
_MOVED_LIE = {
    **{name: f'layers.{name}' for name in ('k', 'norm', 'padding_mode')},
    **{name: f'kernel.{name}' for name in ('hidden', 'w0', 'knots', 'mask', 'support_radius', 'group_width')},
    **{name: f'sampling.{name}' for name in ('rot', 'rot_bound', 'spd_var', 'importance', 'mixing')},
    **{f'stem_{name}': f'stem.{name}' for name in ('k', 'stride', 'padding')},
    'mix': "sampling.mixing, which is 'all' or 'none'",
    'share_samples': 'sampling.shared',
    'n_test_samples': 'sampling.n_test',
    'kernel': 'kernel.kind',
    'angle': 'group.angle, with group=dict(name=..., angle=...)',
}
# Component -> its arguments in earlier versions -> new key.
_MOVED_ARGUMENTS = {
    'PromptedEncoder': {'fusion_layer_cfg': 'fusion'},
    'SBMDataset': {
        **{name: f'graphs.{name}' for name in ('num_graphs', 'size_min', 'size_max', 'num_patterns')},
        'graph_seed': 'graphs.seed',
    },
    'AffineEquivariantBackbone': _MOVED_LIE,
    'AffineEquivariantNet': _MOVED_LIE,
    'ReferenceModelHook': {
        name: f'model.bbox_head.loss_grqo.{name}'
        for name in ('objective', 'alpha', 'beta', 'mute', 'groups', 'one_sided_kl', 'allow_vanishing')
    },
}
# Type of prompts in earlier versions -> new type.
_RENAMED_PROTOCOLS = {
    'text': 'TextPrompts',
    'visual-generic': 'VisualGeneric',
    'visual-interactive': 'VisualInteractive',
}


def moved_argument(component: str, name: str, key: str) -> str | None:
    """Return the new key of an argument of an earlier version; None if the component never had this argument.

    Args:
        component: Name of the component.
        name: Name of the argument.
        key: Key of the argument in the config.
    """
    new = _MOVED_ARGUMENTS.get(component, {}).get(name)
    if new is None or new.startswith('model.'):
        return new
    return f'{key.removesuffix(name)}{new}'


def warn_of_renamed_types(cfg: Config, path: str) -> None:
    """Warn of the type SwinTransformer, which meant our backbone in earlier versions and now means MMDetection's."""
    model = cfg.get('model') or {}
    backbone = model.get('backbone')
    if model.get('type') == 'DINOR1' and isinstance(backbone, dict) and backbone.get('type') == 'SwinTransformer':
        warnings.warn(
            f"{path}: model.backbone.type='SwinTransformer' is MMDetection's; the one of earlier versions, which is "
            "faster on a CPU, is now called 'DenormalFreeSwin'",
            stacklevel=3,
        )


def removed_keys(cfg: Config) -> Iterator[tuple[str, str]]:
    """Yield the keys of earlier versions in a config, each with its replacement."""
    # Find removed keys.
    for key, instead in _REMOVED_KEYS.items():
        node: Any = cfg._cfg_dict
        for part in key.split('.'):
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None:
            yield key, instead
    # Find moved keys of the model.
    model = cfg.get('model') or {}
    if model.get('type') == 'DINOR1':
        for key in _MOVED_MODEL_KEYS.keys() & model.keys():
            yield f'model.{key}', _MOVED_MODEL_KEYS[key]
    # Find renamed types of prompts.
    for key in ('val_cfg', 'test_cfg'):
        prompts = (cfg.get(key) or {}).get('prompts')
        kind = prompts.get('type') if isinstance(prompts, dict) else None
        if kind in _RENAMED_PROTOCOLS:
            yield f'{key}.prompts.type={kind!r}', f'type={_RENAMED_PROTOCOLS[kind]!r}'
    # Find removed hooks.
    hooks = {f'default_hooks.{name}': hook for name, hook in (cfg.get('default_hooks') or {}).items()}
    hooks |= {f'custom_hooks[{number}]': hook for number, hook in enumerate(cfg.get('custom_hooks') or ())}
    for place, hook in hooks.items():
        kind = hook.get('type') if isinstance(hook, dict) else None
        if kind in _REMOVED_HOOKS:
            yield f'{place} of type {kind!r}', _REMOVED_HOOKS[kind]


def check_not_moved(key: str) -> None:
    """Check that an override does not name a key of an earlier version.

    Raises:
        InputError: the key belongs to an earlier version; the message names the new key.
    """
    # Reject a variable of a base config.
    for prefix, place in _SUBSTITUTED.items():
        if key.startswith(prefix):
            where = place.format(key.removeprefix(prefix))
            raise InputError(f'--cfg-options {key}: has no effect once the config has been read; give {where}')
    # Reject a removed or moved key.
    new = _REMOVED_KEYS.get(key)
    if new is None:
        old = next((old for old in _MOVED_SETTINGS if key.startswith(old)), None)
        if old is None:
            return
        new = _MOVED_SETTINGS[old].format(key.removeprefix(old))
    raise InputError(f'--cfg-options {key}: this key belongs to an earlier version; give {new}')
