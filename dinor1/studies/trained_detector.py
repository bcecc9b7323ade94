"""The detector that a tool measures: that of a checkpoint, or one before its training."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config

from dinor1.registry import MODELS
from dinor1.utils.checkpoint import load_model
from dinor1.utils.config import load_config


def trained_detector(config: str, checkpoint: str, cfg_options: Mapping[str, Any] | None = None) -> tuple[Any, Config]:
    """Load a detector.

    Args:
        config: Config file, or name of a config of dinor1.
        checkpoint: Checkpoint, or address of released weights.
        cfg_options: Settings of the config to override, by dotted key.

    Returns:
        The detector in evaluation mode, and its config.

    Raises:
        InputError: config or checkpoint cannot be read, or do not fit each other.
    """
    cfg = load_config(config, cfg_options)
    return load_model(cfg, checkpoint), cfg


def untrained_detector(config: str, cfg_options: Mapping[str, Any] | None = None) -> tuple[Any, Config]:
    """Build a detector with the weights before a training, of seed 0; see :func:`trained_detector`.

    Raises:
        InputError: the config cannot be read.
    """
    cfg = load_config(config, cfg_options)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.eval(), cfg
