"""Registries of this project: children of MMDetection's, under the scope ``dinor1``.

A config with ``default_scope = 'dinor1'`` finds our components first and falls back to MMDetection's and then
MMEngine's under their plain names, so that ``type='ChannelMapper'`` needs no prefix.
"""

from mmdet import registry as _mmdet
from mmengine.registry import Registry


def _child(parent: Registry, *locations: str) -> Registry:
    return Registry(parent.name, parent=parent, scope='dinor1', locations=list(locations))


MODELS = _child(_mmdet.MODELS, 'dinor1.models')
MODEL_WRAPPERS = _child(_mmdet.MODEL_WRAPPERS)
WEIGHT_INITIALIZERS = _child(_mmdet.WEIGHT_INITIALIZERS)
TASK_UTILS = _child(_mmdet.TASK_UTILS, 'dinor1.evaluation')
DATASETS = _child(_mmdet.DATASETS, 'dinor1.datasets')
TRANSFORMS = _child(_mmdet.TRANSFORMS, 'dinor1.datasets')
DATA_SAMPLERS = _child(_mmdet.DATA_SAMPLERS, 'dinor1.datasets')
METRICS = _child(_mmdet.METRICS, 'dinor1.evaluation')
EVALUATOR = _child(_mmdet.EVALUATOR)
HOOKS = _child(_mmdet.HOOKS, 'dinor1.engine')
LOOPS = _child(_mmdet.LOOPS, 'dinor1.engine')
RUNNERS = _child(_mmdet.RUNNERS)
RUNNER_CONSTRUCTORS = _child(_mmdet.RUNNER_CONSTRUCTORS)
LOG_PROCESSORS = _child(_mmdet.LOG_PROCESSORS)
OPTIMIZERS = _child(_mmdet.OPTIMIZERS)
OPTIM_WRAPPERS = _child(_mmdet.OPTIM_WRAPPERS)
OPTIM_WRAPPER_CONSTRUCTORS = _child(_mmdet.OPTIM_WRAPPER_CONSTRUCTORS)
PARAM_SCHEDULERS = _child(_mmdet.PARAM_SCHEDULERS)
VISUALIZERS = _child(_mmdet.VISUALIZERS, 'dinor1.visualization')
VISBACKENDS = _child(_mmdet.VISBACKENDS)
# Converters for `model_converters` of a config, see dinor1.utils.model_converters. Blocks register their converters.
MODEL_CONVERTERS = Registry('model converter', scope='dinor1')
