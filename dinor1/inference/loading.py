"""Loading of a detector and of the test pipeline that prepares its images."""

from os import PathLike

import torch
from mmengine.config import Config

from dinor1.models import DINOR1
from dinor1.utils.checkpoint import load_model
from dinor1.utils.config import load_config
from dinor1.utils.devices import as_device
from dinor1.utils.errors import InputError
from dinor1.utils.released_weights import DEFAULT

from .preparation import ImagePreparation, array_pipeline
from .released import released_detector


def load_detector(
    config: str | PathLike | Config | None, checkpoint: str | PathLike | None, device: str | torch.device | None
) -> tuple[DINOR1, ImagePreparation, torch.device]:
    """Load config, pipeline and model; arguments of :class:`~dinor1.inference.DINOR1Inferencer`.

    Returns:
        The detector, in evaluation mode; the preparation of its images; and its device.

    Raises:
        InputError: a file is missing or damaged, or config, checkpoint and device do not fit together.
    """
    # Load the config.
    unused: tuple[str, ...] = ()
    if config is None:
        cfg, checkpoint, unused = released_detector(str(checkpoint or DEFAULT))
    elif checkpoint is None:
        raise InputError('a config without a checkpoint; give both, or neither for the released detector')
    else:
        cfg = config if isinstance(config, Config) else load_config(str(config))
    name = cfg.filename or 'the config'
    if 'model' not in cfg:
        raise InputError(f'{name}: has no model; give the config that the checkpoint was trained with')
    # Build pipeline and model.
    pipeline = array_pipeline(cfg, name)
    device = as_device(device)
    model = load_model(cfg, str(checkpoint), device, unused)
    if not isinstance(model, DINOR1):
        raise InputError(f'{name}: a {type(model).__name__} takes no prompts; give the config of a DINOR1')
    return model, ImagePreparation(pipeline, model.data_preprocessor), device
